"""The command that adapts a finished model to a target without its source."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tl_lightning.cli.common import part_of, plain_command, say_interrupted
from tl_lightning.config.compose import composed
from tl_lightning.errors import ConfigError
from tl_lightning.utils.run_id import run_id
from tl_lightning.utils.signals import Interrupted

__all__ = ["adapt"]

#: What the run takes over from the checkpoint's own run unless it is given.
_TAKEN_OVER = ("data", "backbone", "head", "loss", "trainer", "optimizer", "scheduler")


def adapt() -> None:
    """Adapt a checkpoint: ``tl-adapt checkpoint=<run or file> [adapter=[shot]] [...]``."""
    plain_command(
        _adapt,
        "usage: adapt.py checkpoint=<run folder or file.ckpt> [adapter=[shot]|[tent]|[mcc]|...]\n"
        "                [data=<name>] [any other setting of train.py ...]\n"
        "Adapts the model to the target's unlabelled training pictures; no source picture trains.\n"
        "Data, network, optimizer and trainer are those of the checkpoint's run unless given.\n"
        "Writes a run folder as train.py does, outputs/<adapter>-<data>/<run id> or hydra.run.dir.",
    )


def _adapt(arguments: list[str]) -> None:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    place = given.pop("checkpoint", "")
    if not place:
        raise ConfigError(
            "checkpoint is missing; type checkpoint=<a run's folder or a .ckpt file of ours>"
        )
    if "model" in given or "init" in given:
        key = "model" if "model" in given else "init"
        raise ConfigError(
            f"{key}={given[key]} has no place here: the model is checkpoint={place}; leave {key} "
            "out, or type train.py for another model"
        )
    folder = given.pop("hydra.run.dir", "")
    given.setdefault("adapter", "[shot]")
    others = [f"{key}={value}" for key, value in given.items()]
    # Keys below a group that the checkpoint's run decides are not this composition's to know.
    apart = [f"{name}." for name in _TAKEN_OVER if name not in given]
    known = [one for one in others if not one.startswith(tuple(apart))]
    whole = ["model=source_free", f"init='{Path(place).absolute()}'", "bracket=[]", *known]
    plain: Any = OmegaConf.to_container(composed(whole, ("checkpoint",)), resolve=True)
    from tl_lightning.checkpoints.warm_start import checkpoint_of

    checkpoint = str(checkpoint_of(Path(place), "checkpoint"))
    for name in _TAKEN_OVER:
        plain[name] = part_of(name, checkpoint, others, whole=True)
    plain["backbone"]["checkpoint"] = None
    if "data.seed" not in given:
        plain["data"]["seed"] = plain["seed"]
    plain["init"] = checkpoint
    name = f"{plain['model']['name']}-{plain['data']['name']}"
    _run(plain, Path(folder or f"outputs/{name}/{run_id()}").absolute())


def _run(config: dict[str, Any], folder: Path) -> None:
    from tl_lightning.reporting.console import print_run
    from tl_lightning.reporting.run.page import write_page
    from tl_lightning.training.fit import fit

    try:
        found = fit(config, folder)
    except (KeyboardInterrupt, Interrupted) as end:
        say_interrupted(folder)
        sys.exit(130 if isinstance(end, KeyboardInterrupt) else end.code)
    if found:  # the first rank
        print_run(found, write_page(folder))
