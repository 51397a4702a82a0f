"""Baselines for an adapted model, trained with the same seed, data, steps and settings."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.validation.check import check
from tl_lightning.config.validation.classes import model_class
from tl_lightning.distributed.ranks import rank
from tl_lightning.distributed.strategy import alone
from tl_lightning.errors import ConfigError
from tl_lightning.sweeps.jobs import begin, finished, swept_models
from tl_lightning.training.fit import fit
from tl_lightning.utils.files import alone_in, held
from tl_lightning.utils.signals import Interrupted

__all__ = ["baseline", "fit_with_baselines", "resuming", "wanted"]

#: Baselines with a different model; ``joint_bn`` is the model of the run without its methods.
_MODELS = {
    "source_only": {"_target_": "tl_lightning.models.FineTuning", "name": "source_only"},
    "oracle": {"_target_": "tl_lightning.models.supervised.LabelledTarget", "name": "oracle"},
}


def wanted(config: Mapping[str, Any], sweeping: bool) -> list[str]:
    """Return the names of the baselines that this job trains in addition to its model.

    For an adapted model in a sweep, ``baselines=auto`` adds ``joint_bn``. ``baselines=true`` adds
    the lower and upper bounds: ``source_only`` and, unless it would be tested on images whose
    labels it has learned, ``oracle``. Models that the sweep itself contains
    (``model=source_only,dann``) are not trained again. With several devices no baselines are
    trained, because each fit starts its own processes; a message is printed then.
    """
    if not config["method"]:
        return []
    names = _requested(config, sweeping)
    swept = swept_models() if sweeping else []
    names = [name for name in names if name not in swept]
    if "joint_bn" in names and not _sees_source(config):
        names.remove("joint_bn")
        name = config["model"]["name"]
        print(f"skipping baseline joint_bn: {name} does not train on the source")
    if names and not alone(config["trainer"]):
        print(
            f"skipping baselines of {config['model']['name']}: not supported on several devices; "
            f"use -m model={','.join(names)},{config['model']['name']} instead"
        )
        return []
    return names


def _sees_source(config: Mapping[str, Any]) -> bool:
    return "source" in model_class(config).train_on


def _requested(config: Mapping[str, Any], sweeping: bool) -> list[str]:
    baselines = config["baselines"]
    if baselines == "auto":
        return ["joint_bn"] if sweeping else []
    if not isinstance(baselines, bool):
        return list(baselines)
    if baselines and config["data"].get("transductive"):
        print(
            "skipping baseline oracle: data.transductive=true tests on the target's training "
            "images, whose labels it would have learned; set data.transductive=false to train it"
        )
        return ["source_only"]
    return ["source_only", "oracle"] if baselines else []


def baseline(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration of the baseline ``name`` of an adapted run.

    ``joint_bn`` only removes the methods: batch norm still sees both domains. ``source_only``
    also trains without target images. ``oracle`` trains on labelled target images instead of the
    source; if the selection rule compares epochs, it uses target labels as well, since no other
    metric reflects what the oracle learns.
    """
    out = copy.deepcopy(dict(config))
    out["method"] = {}
    out["baselines"] = []
    if not _sees_source(config):
        out["init"] = None  # that model was trained on the source already
    if name in _MODELS:
        out["model"] = dict(_MODELS[name])
    else:
        out["model"]["name"] = name
    if out["resume"]:  # from its own checkpoint, not from that of the adapted run
        out["resume"] = "auto"
    if name == "oracle" and out["selection"] not in ("last", "auto"):
        out["selection"] = "oracle"
    return out


def fit_with_baselines(cfg: DictConfig, folder: Path, sweeping: bool) -> dict[str, Any]:
    """Fit the model of ``cfg``, and its baselines in ``folder/baselines``.

    In a sweep, finished parts are skipped and interrupted ones are resumed.

    Returns:
        The report of the model; an empty mapping on ranks other than 0, and if another process is
        running the same job.
    """
    original: Any = OmegaConf.to_container(cfg, resolve=True)
    checked = check(original)
    names = wanted(checked, sweeping)
    config = {**original, "selection": checked["selection"]}  # one rule for all of them
    parts = {name: baseline(config, name) for name in names}
    for part in parts.values():  # report invalid baselines before training starts
        check(part)
    if sweeping:
        return _fit_once(original, parts, folder)
    if (folder / "report.json").is_file() and not config["resume"]:
        raise ConfigError(
            f"{folder} contains a finished run; set another hydra.run.dir, set resume=auto to "
            "extend it (more epochs, baselines), or delete the folder"
        )
    with alone_in(folder) if rank() == 0 else contextlib.nullcontext(True) as acquired:
        if not acquired:
            raise ConfigError(
                f"another process is running in {folder}; wait until it has finished, or set "
                "another hydra.run.dir"
            )
        report = fit(config, folder)
        for name, part in parts.items():
            _announce(name, config)
            fit(part, folder / "baselines" / name, config["model"]["name"])
    return report


def _announce(name: str, config: Mapping[str, Any]) -> None:
    print(f"baseline {name} for {config['model']['name']}, seed {config['seed']}", flush=True)


def _fit_once(
    config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, Any]:
    """Fit or resume the unfinished parts of a sweep job."""
    first = rank() == 0
    with held(folder) if first else contextlib.nullcontext(True) as acquired:
        if not acquired:
            print(f"skipped: another process is running this job: {folder.name}", flush=True)
            if _started_externally(config):
                raise Interrupted
            return {}
        report = finished(folder, config)
        if first:
            begin(folder, config, [*parts])
        if report is not None:
            print(f"already finished: {folder.name}", flush=True)
        else:
            report = fit(resuming(config, folder), folder)
        for name, part in parts.items():
            path = folder / "baselines" / name
            if finished(path, part) is None:
                _announce(name, config)
                begin(path, part)
                fit(resuming(part, path), path, config["model"]["name"])
    return report


def _started_externally(config: Mapping[str, Any]) -> bool:
    """Return whether SLURM or torchrun has started several ranks.

    The other ranks do not check the lock and would wait for this one, so it has to exit with an
    error for the launcher to terminate them.
    """
    started = "SLURM_PROCID" in os.environ or "RANK" in os.environ
    return started and not alone(config["trainer"])


def resuming(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the configuration of a sweep job with ``resume`` set to use its own checkpoints."""
    started = any((folder / "checkpoints").glob("*.ckpt"))
    return {**config, "resume": "auto" if started or not config["resume"] else config["resume"]}
