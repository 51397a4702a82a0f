"""Baselines for an adapted model, trained with the same seed, data, steps and settings."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.compose import with_values
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.distributed.ranks import rank
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.verdict import on_several_devices
from tl_lightning.sweeps.jobs import begin, finished, swept_models
from tl_lightning.training.fit import fit
from tl_lightning.training.reliability import compare_models
from tl_lightning.utils.files import run_lock
from tl_lightning.utils.signals import Interrupted

__all__ = ["baseline", "baselines_of", "fit_with_baselines", "resuming"]

#: Seconds to wait for the lock of a run, which loader workers of a killed run keep briefly.
WAIT_S = 10.0
#: Baselines with a different model; ``joint_bn`` is the model of the run without its methods.
_MODELS = {
    "source_only": {"_target_": "tl_lightning.models.FineTuning", "name": "source_only"},
    "oracle": {"_target_": "tl_lightning.models.supervised.LabelledTarget", "name": "oracle"},
}


def baselines_of(run: RunConfig, sweeping: bool) -> list[str]:
    """Return the names of the baselines that this job trains in addition to its model.

    For an adapted model in a sweep, ``baselines=auto`` adds ``joint_bn``, unless batch norm is
    frozen. ``baselines=true`` adds ``source_only``, ``joint_bn`` under the same condition, and,
    unless it would be tested on images whose labels it has learned, ``oracle``. Models that the
    sweep itself contains (``model=source_only,dann``) are not trained again. With several devices
    no baselines are trained, because each fit starts its own processes; a message is printed then.
    """
    if not run.methods or run.model.cls.unseen:
        return []
    names = _requested(run, sweeping)
    swept = swept_models() if sweeping else []
    names = [name for name in names if name not in swept]
    if "joint_bn" in names and not _sees_source(run):
        names.remove("joint_bn")
        print(f"skipping baseline joint_bn: {run.name} does not train on the source")
    if names and not run.trainer.single_process:
        hint = on_several_devices(run.name, names)
        print(f"skipping baselines of {run.name}: not supported on several devices; use {hint}")
        return []
    return names


def _sees_source(run: RunConfig) -> bool:
    return "source" in run.model.cls.train_on


def _requested(run: RunConfig, sweeping: bool) -> list[str]:
    # With frozen batch norm, batches of both domains have no effect without a method.
    joint = [] if run.backbone.params.get("freeze_bn") else ["joint_bn"]
    if run.baselines == "auto":
        return joint if sweeping else []
    if not isinstance(run.baselines, bool):
        return list(run.baselines)
    if run.baselines and run.data.params.get("transductive"):
        print(
            "skipping baseline oracle: data.transductive=true tests on the target's training "
            "images, whose labels it would have learned; set data.transductive=false to train it"
        )
        return ["source_only", *joint]
    return ["source_only", *joint, "oracle"] if run.baselines else []


def baseline(config: Mapping[str, Any], name: str, sees_source: bool = True) -> dict[str, Any]:
    """Return the configuration of the baseline ``name`` of an adapted run.

    ``joint_bn`` only removes the methods: batch norm still sees both domains. ``source_only``
    also trains without target images. ``oracle`` trains on labelled target images instead of the
    source; if the selection rule compares epochs, it uses target labels as well, since no other
    metric reflects what the oracle learns.

    Args:
        config: The composed configuration of the adapted run.
        name: Name of the baseline.
        sees_source: Whether the adapted model trains on the source.
    """
    out = copy.deepcopy(dict(config))
    out["method"] = {}
    out["baselines"] = []
    if not sees_source:
        out["init"] = None  # that model was trained on the source already
    if name in _MODELS:
        out["model"] = dict(_MODELS[name])
        if "target_sampling" in out["data"]:  # they do not train on both domains
            out["data"]["target_sampling"] = "uniform"
    else:
        out["model"]["name"] = name
    if out["resume"]:  # from its own checkpoint, not from that of the adapted run
        out["resume"] = "auto"
    if name == "oracle" and out["selection"] not in ("last", "auto"):
        out["selection"] = "oracle"
    return out


def fit_with_baselines(
    cfg: DictConfig, folder: Path, sweeping: bool, callbacks: Sequence[L.Callback] = ()
) -> dict[str, Any]:
    """Fit the model of ``cfg``, and its baselines in ``folder/baselines``.

    In a sweep, finished parts are skipped and interrupted ones are resumed.

    Args:
        cfg: The composed configuration.
        folder: The run's folder.
        sweeping: Whether this is a job of a sweep.
        callbacks: Callbacks of the model besides those of the configuration.

    Returns:
        The report of the model; an empty mapping on ranks other than 0, and if another process is
        running the same job.
    """
    original: Any = OmegaConf.to_container(cfg, resolve=True)
    run = check(original)
    names = baselines_of(run, sweeping)
    config = {**original, "selection": run.selection}  # one rule for all of them
    parts = {name: baseline(config, name, _sees_source(run)) for name in names}
    for part in parts.values():  # report invalid baselines before training starts
        check(part)
    if sweeping:
        return _fit_once(run, original, parts, folder)
    if (folder / "report.json").is_file() and not run.resume:
        raise ConfigError(
            f"{folder} contains a finished run; set another hydra.run.dir, set resume=auto to "
            "extend it (more epochs, baselines), or delete the folder"
        )
    if not run.resume and rank() == 0 and any((folder / "checkpoints").glob("*.ckpt")):
        raise ConfigError(
            f"{folder} contains an unfinished run, which this run would overwrite; set resume=auto "
            "to continue it or another hydra.run.dir, or delete the folder to start again"
        )
    with run_lock(folder, WAIT_S) if rank() == 0 else contextlib.nullcontext(True) as acquired:
        if not acquired:
            raise ConfigError(
                f"another process is running in {folder}; wait until it has finished, or set "
                "another hydra.run.dir"
            )
        report = fit(config, folder, callbacks=callbacks)
        for name, part in _trainable(parts, report).items():
            _announce(name, run)
            fit(part, folder / "baselines" / name, run.name)
        return {**report, **compare_models(folder)} if report else report


def _trainable(parts: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the baselines without the oracle of ``baselines=true`` if the target has no labels.

    Args:
        parts: Configurations by name.
        report: Report of the adapted model, which has read the data.
    """
    unlabelled = (report.get("dataset") or {}).get("unlabelled", [])
    if "oracle" not in parts or "target/train" not in unlabelled:
        return dict(parts)
    print("skipping baseline oracle: the target has no labels to train it on")
    return {name: part for name, part in parts.items() if name != "oracle"}


def _announce(name: str, run: RunConfig) -> None:
    print(f"baseline {name} for {run.name}, seed {run.seed}", flush=True)


def _fit_once(
    run: RunConfig,
    config: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """Fit or resume the unfinished parts of a sweep job.

    Args:
        run: The checked configuration of the model.
        config: The same as composed.
        parts: The composed configurations of its baselines.
        folder: The job's folder.
    """
    first = rank() == 0
    with run_lock(folder) if first else contextlib.nullcontext(True) as acquired:
        if not acquired:
            print(f"skipped: another process is running this job: {folder.name}", flush=True)
            if _started_externally(run):
                raise Interrupted
            return {}
        report = finished(folder, config)
        if first:
            begin(folder, config, [*parts])
        if report is not None:
            print(f"already finished: {folder.name}", flush=True)
        else:
            report = fit(resuming(config, folder, run.resume), folder)
        kept = _trainable(parts, report)
        if first and len(kept) < len(parts):
            begin(folder, config, [*kept])
        for name, part in kept.items():
            path = folder / "baselines" / name
            if finished(path, part) is None:
                _announce(name, run)
                begin(path, part)
                fit(resuming(part, path, None), path, run.name)
        return {**report, **compare_models(folder)} if first else report


def _started_externally(run: RunConfig) -> bool:
    """Return whether SLURM or torchrun has started several ranks.

    The other ranks do not check the lock and would wait for this one, so it has to exit with an
    error for the launcher to terminate them.
    """
    started = "SLURM_PROCID" in os.environ or "RANK" in os.environ
    return started and not run.trainer.single_process


def resuming(config: Mapping[str, Any], folder: Path, resume: str | None) -> dict[str, Any]:
    """Return the configuration of a sweep job with ``resume`` set to use its own checkpoints."""
    # The candidates of model=auto have checkpoints of their own.
    started = any((folder / "checkpoints").glob("*.ckpt")) or (folder / "candidates").is_dir()
    return with_values(config, {"resume": "auto" if started or not resume else resume})
