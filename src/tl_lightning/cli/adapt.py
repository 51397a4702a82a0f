"""The command ``tl-adapt``: source-free adaptation of a trained model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tl_lightning.checkpoints.places import check_place
from tl_lightning.cli.common import plain_command, say_interrupted
from tl_lightning.cli.usage import CHECKPOINT, TRAINS, Usage
from tl_lightning.config.compose import as_dict, composed, with_values
from tl_lightning.config.overrides import quoted
from tl_lightning.config.paths import folder_problem
from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import ConfigError
from tl_lightning.utils.run_id import run_id
from tl_lightning.utils.signals import Interrupted

__all__ = ["adapt"]

#: Config groups taken from the run of the checkpoint unless given.
_INHERITED = ("data", "backbone", "head", "loss", "trainer", "optimizer", "scheduler")


USAGE = Usage(
    ("adapt.py checkpoint=<run or file.ckpt> [method=[<name>,...]] [<key>=<value> ...]",),
    "Adapt a trained model to the target's unlabelled training images, without source images. "
    "Writes a run folder as train.py does.",
    {
        "Model": {
            **CHECKPOINT,
            "method": "[shot], [tent], [mcc], ...: methods that need no source (default: [shot])",
        },
        "Data and output": {
            "data": "another dataset with the same classes (default: that of the run)",
            "hydra.run.dir": "run folder (default: outputs/<method>-<data>/<run id>)",
        },
        "Other settings": {
            "<key>": "any other setting of train.py; data, network, optimizer and trainer default "
            "to those of the checkpoint's run",
        },
    },
    ("adapt.py checkpoint=runs/a", "adapt.py checkpoint=runs/a method=[tent] trainer.max_epochs=1"),
    TRAINS,
)


def adapt() -> None:
    """Adapt a checkpoint: ``tl-adapt checkpoint=<run or file> [method=[shot]] [...]``."""
    plain_command(_adapt, USAGE)


def _adapt(arguments: list[str]) -> None:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    path = given.pop("checkpoint", "")
    if not path:
        raise ConfigError(
            "checkpoint is missing; set checkpoint=<run folder or .ckpt file of tl_lightning>"
        )
    if "model" in given or "init" in given:
        key = "model" if "model" in given else "init"
        raise ConfigError(
            f"{key}={given[key]} is not supported by adapt.py: the model is checkpoint={path}; "
            f"omit {key}, or use train.py for another model"
        )
    for key in given:
        if key[0] in "+~" and key[1:].split(".")[0] in _INHERITED:
            raise ConfigError(
                f"{key} is not supported by adapt.py, which takes {key[1:].split('.')[0]} from the "
                f"checkpoint's run; set {key[1:].split('.')[0]}=<name> for another one"
            )
    folder = given.pop("hydra.run.dir", "")
    given.setdefault("method", "[shot]")
    overrides = [f"{key}={value}" for key, value in given.items()]
    # Keys of inherited groups may not exist in the default configuration composed here.
    inherited = tuple(f"{name}." for name in _INHERITED if name not in given)
    known = [override for override in overrides if not override.startswith(inherited)]
    own = [
        "model=source_free",
        f"init={quoted(str(Path(path).expanduser().absolute()))}",
        "baselines=[]",
        *known,
    ]
    config = composed(own, ("checkpoint",))
    check_place(path)  # the next imports take seconds
    from tl_lightning.checkpoints.io import read_model
    from tl_lightning.checkpoints.warm_start import checkpoint_of
    from tl_lightning.config.validation.check import check
    from tl_lightning.evaluation.labels import kind_of
    from tl_lightning.evaluation.nodes import stored_nodes

    checkpoint = str(checkpoint_of(Path(path), "checkpoint"))
    changes: dict[str, Any] = {**stored_nodes(_INHERITED, checkpoint, overrides)}
    changes |= {"backbone.checkpoint": None, "init": checkpoint}
    stored = read_model(Path(checkpoint)).config
    if kind_of(stored) != "classification":
        changes |= {name: stored[name] for name in ("task", "loss")}
    if "data.seed" not in given:
        changes["data.seed"] = config.seed
    run = check(with_values(as_dict(config), changes))
    name = f"{run.name}-{run.data_name}"
    place = Path(folder or f"outputs/{name}/{run_id()}").absolute()
    if problem := folder_problem(place, "hydra.run.dir"):
        raise ConfigError(problem)
    _run(run, place)


def _run(run: RunConfig, folder: Path) -> None:
    from tl_lightning.reporting.console import print_run
    from tl_lightning.reporting.run.page import write_page
    from tl_lightning.training.fit import fit

    try:
        report = fit(run, folder)
    except (KeyboardInterrupt, Interrupted) as end:
        say_interrupted(folder)
        sys.exit(130 if isinstance(end, KeyboardInterrupt) else end.code)
    if report:  # rank 0 only
        print_run(report, write_page(folder))
