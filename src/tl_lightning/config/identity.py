"""What makes two runs the same run: the settings that do and do not count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.utils.text import flatten

__all__ = ["identity", "job_key", "other_settings"]

#: Keys that say where, when and beside what a run was made, not what it computes.
_CIRCUMSTANCES = (
    "seed",
    "bracket",
    "track_target",
    "resume",
    "allow",
    "report",
    "logger",
    "callbacks",
    "checkpoint",
)
#: What of the cache changes what is learned.
_OF_CACHE = ("images", "shorter", "features", "views")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a configuration decides what a run computes, but its seed and callbacks."""
    kept = {key: value for key, value in config.items() if key not in _CIRCUMSTANCES}
    kept["data"] = {k: v for k, v in kept["data"].items() if k not in ("seed", "num_workers")}
    kept["trainer"] = {k: v for k, v in kept["trainer"].items() if k != "timeout_s"}
    kept["cache"] = {k: v for k, v in kept["cache"].items() if k in _OF_CACHE}
    every = config["checkpoint"]["every_n_epochs"]
    if every != 1:  # which epochs a rule may pick; runs from before it was kept compare too
        kept["checkpoint"] = {"every_n_epochs": every}
    if not kept.get("tasks"):  # runs from before there were any compare too
        kept = {key: value for key, value in kept.items() if key not in ("tasks", "balance")}
    if kept.get("lr_for_batch") is None:
        kept.pop("lr_for_batch", None)
    if not kept["trainer"].get("sync_batchnorm"):
        kept["trainer"].pop("sync_batchnorm", None)
    if config["lr_find"]:  # every seed finds its own
        kept["optimizer"] = {k: v for k, v in kept["optimizer"].items() if k != "lr"}
    return kept


def job_key(config: Mapping[str, Any]) -> str:
    """Return a short hash of what a job of a sweep computes, its seed and callbacks included.

    Of the configuration as composed, in which ``auto`` is still ``auto``: a node without a GPU
    gives the job the same key as one with.

    Args:
        config: The configuration as plain values, without Hydra's own node.
    """
    kept = identity(config)
    callbacks = config.get("callbacks") or {}
    kept |= {key: config[key] for key in ("seed", "track_target")}
    kept["callbacks"] = {key: value for key, value in callbacks.items() if key != "bar"}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


#: What may change between a run and its continuation: machines, lengths and places.
_FREE = (
    "trainer.", "cache.", "channels_last", "compile", "lr_find", "init", "optimizer.fused",
    "backbone.checkpoint", "backbone.grad_checkpointing", "backbone.package", "backbone.pretrained",
    "backbone.in_features",  # what the data say
    "data.eval_batch_size", "data.pin_memory", "data.download", "data.root", "data.source.root",
    "data.target.root",
)  # fmt: skip
#: What of the trainer decides what a step computes.
_STEPS = ("trainer.accumulate_grad_batches", "trainer.gradient_clip_val")
#: Groups of things by name, where another set of names is another run.
_SETS = ("adapter", "regularizer", "tasks")


def other_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return what decides a run's result and differs between two configurations.

    Settings that only one of them knows are left out: the other may be of an earlier version.

    Args:
        theirs: That of a checkpoint.
        ours: That of the run which would go on from it.
    """
    old, new = ({"seed": one["seed"], **identity(one)} for one in (theirs, ours))
    found = []
    for name in _SETS:
        names, those = (sorted(one.get(name) or {}) for one in (old, new))
        if names != those:
            found.append(_words(name, f"[{','.join(names)}]", f"[{','.join(those)}]"))
    before, now = flatten(old), flatten(new)
    found += [
        _words(key, before[key], now[key])
        for key in before.keys() & now.keys()
        if _part(before[key]) != _part(now[key]) and (key in _STEPS or not key.startswith(_FREE))
    ]
    return sorted(found)


def _words(key: str, before: Any, now: Any) -> str:
    return f"{key}={before}, now {now}"


def _part(value: Any) -> Any:
    """Return what must be the same of a value: of a path, its name, for folders are moved.

    >>> _part("/my/books.npz") == _part("books.npz"), _part(1) == _part(1.0)
    (True, True)
    """
    if isinstance(value, (list, tuple)):
        return [_part(one) for one in value]
    return Path(value).name if isinstance(value, str) and "/" in value else value
