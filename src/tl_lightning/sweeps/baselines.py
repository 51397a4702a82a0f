"""Baselines beside an adapted model, trained with the same seed, data, steps and settings."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.validation.check import check
from tl_lightning.config.validation.classes import model_of
from tl_lightning.distributed.ranks import rank
from tl_lightning.distributed.strategy import alone
from tl_lightning.errors import ConfigError
from tl_lightning.sweeps.jobs import begin, finished, swept_models
from tl_lightning.training.fit import fit
from tl_lightning.utils.files import alone_in, held
from tl_lightning.utils.signals import Interrupted

__all__ = ["baseline", "fit_with_baselines", "going_on", "wanted"]

#: Baselines that are models of their own; ``joint_bn`` is the run's model without its adapters.
_MODELS = {
    "source_only": {"_target_": "tl_lightning.models.FineTuning", "name": "source_only"},
    "oracle": {"_target_": "tl_lightning.models.supervised.LabelledTarget", "name": "oracle"},
}


def wanted(config: Mapping[str, Any], sweeping: bool) -> list[str]:
    """Return the names of the baselines that this job trains besides its own model.

    ``bracket=auto`` adds ``joint_bn`` to an adapted model in a sweep, ``bracket=true`` what lies
    below and above it: ``source_only`` and, unless it would be tested on pictures whose labels it
    has learned, ``oracle``. What the sweep itself runs (``model=source_only,dann``) is not run
    again beside each of its jobs. On several devices there are none, because each training starts
    processes of its own; a line says so.
    """
    if not config["adapter"]:
        return []
    names = _asked(config, sweeping)
    swept = swept_models() if sweeping else []
    names = [name for name in names if name not in swept]
    if "joint_bn" in names and not _sees_source(config):
        names.remove("joint_bn")
        print(f"no joint_bn beside {config['model']['name']}, which is not shown the source")
    if names and not alone(config["trainer"]):
        print(
            f"no baselines beside {config['model']['name']}: several devices train one model a "
            f"process; type -m model={','.join(names)},{config['model']['name']} instead"
        )
        return []
    return names


def _sees_source(config: Mapping[str, Any]) -> bool:
    return "source" in model_of(config).train_on


def _asked(config: Mapping[str, Any], sweeping: bool) -> list[str]:
    bracket = config["bracket"]
    if bracket == "auto":
        return ["joint_bn"] if sweeping else []
    if not isinstance(bracket, bool):
        return list(bracket)
    if bracket and config["data"].get("transductive"):
        print(
            "no oracle in the bracket: data.transductive=true tests on the target's training "
            "pictures, whose labels it would have learned; type data.transductive=false for one"
        )
        return ["source_only"]
    return ["source_only", "oracle"] if bracket else []


def baseline(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration of the baseline ``name`` of an adapted run.

    ``joint_bn`` only takes the adapters away: batch norm still sees both domains. ``source_only``
    also takes the target's pictures away from training. ``oracle`` learns from the target's
    labelled training pictures in place of the source's; where a rule compares epochs, it compares
    them by the labelled target, since no other figure tells of what it learns.
    """
    out = copy.deepcopy(dict(config))
    out["adapter"] = {}
    out["bracket"] = []
    if not _sees_source(config):
        out["init"] = None  # what it starts from has learned the source already
    if name in _MODELS:
        out["model"] = dict(_MODELS[name])
    else:
        out["model"]["name"] = name
    if out["resume"]:  # from its own checkpoint, whatever the adapted run goes on from
        out["resume"] = "auto"
    if name == "oracle" and out["selection"] not in ("last", "auto"):
        out["selection"] = "oracle"
    return out


def fit_with_baselines(cfg: DictConfig, folder: Path, sweeping: bool) -> dict[str, Any]:
    """Fit the model of ``cfg`` and its baselines below ``folder/bracket``; return its report.

    In a sweep, what is done already is left as it is, and what was interrupted goes on.

    Returns:
        The report; an empty mapping on other ranks than the first, and where another process is
        at work on the same job.
    """
    asked: Any = OmegaConf.to_container(cfg, resolve=True)
    checked = check(asked)
    names = wanted(checked, sweeping)
    config = {**asked, "selection": checked["selection"]}  # one rule for all of them
    parts = {name: baseline(config, name) for name in names}
    for part in parts.values():  # a fault of a baseline is told before hours of training
        check(part)
    if sweeping:
        return _fit_once(asked, parts, folder)
    if (folder / "report.json").is_file() and not config["resume"]:
        raise ConfigError(
            f"{folder} holds a finished run; type another hydra.run.dir, resume=auto to go on with "
            "it (baselines beside it, more epochs), or delete the folder"
        )
    with alone_in(folder) if rank() == 0 else contextlib.nullcontext(True) as mine:
        if not mine:
            raise ConfigError(
                f"another process is at work in {folder}; wait until it has ended, or type another "
                "hydra.run.dir"
            )
        report = fit(config, folder)
        for name, part in parts.items():
            _say(name, config)
            fit(part, folder / "bracket" / name, config["model"]["name"])
    return report


def _say(name: str, config: Mapping[str, Any]) -> None:
    print(f"baseline {name} beside {config['model']['name']}, seed {config['seed']}", flush=True)


def _fit_once(
    config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, Any]:
    """Fit what of a job of a sweep is not done, on from where it was."""
    first = rank() == 0
    with held(folder) if first else contextlib.nullcontext(True) as mine:
        if not mine:
            print(f"left to the process that is at work on it: {folder.name}", flush=True)
            if _others_wait(config):
                raise Interrupted
            return {}
        report = finished(folder, config)
        if first:
            begin(folder, config, [*parts])
        if report is not None:
            print(f"done before: {folder.name}", flush=True)
        else:
            report = fit(going_on(config, folder), folder)
        for name, part in parts.items():
            place = folder / "bracket" / name
            if finished(place, part) is None:
                _say(name, config)
                begin(place, part)
                fit(going_on(part, place), place, config["model"]["name"])
    return report


def _others_wait(config: Mapping[str, Any]) -> bool:
    """Return whether somebody else has started other ranks, which would wait for this one.

    They see no lock. Who started them ends them when this one does not end well.
    """
    started = "SLURM_PROCID" in os.environ or "RANK" in os.environ
    return started and not alone(config["trainer"])


def going_on(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the configuration with which an interrupted job goes on, and a new one starts."""
    began = any((folder / "checkpoints").glob("*.ckpt"))
    return {**config, "resume": "auto" if began or not config["resume"] else config["resume"]}
