"""Identity of a run: the settings that determine its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.utils.text import flatten

__all__ = ["identity", "job_key", "other_settings"]

#: Keys that do not affect what a run computes, or that runs of one group may differ in.
_IGNORED = (
    "seed",
    "baselines",
    "track_target",
    "resume",
    "allow",
    "report",
    "logger",
    "callbacks",
    "checkpointing",
    "metrics",
    "tags",
    "test",
)
#: Keys of ``cache`` that affect training.
_CACHE_KEYS = ("images", "shorter_side", "features", "views")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that determine what a run computes, except its seed and callbacks."""
    kept = {key: value for key, value in config.items() if key not in _IGNORED}
    if kept.get("task") == {"kind": "classification"}:  # which earlier versions did not state
        del kept["task"]
    if methods := kept.get("method"):
        kept["method"] = {name: _as_stated(node) for name, node in methods.items()}
    kept["data"] = {k: v for k, v in kept["data"].items() if k not in ("seed", "num_workers")}
    kept["trainer"] = {k: v for k, v in kept["trainer"].items() if k != "timeout_s"}
    kept["cache"] = {k: v for k, v in kept["cache"].items() if k in _CACHE_KEYS}
    # It decides which epochs a selection rule can choose from.
    kept["checkpointing"] = {"every_n_epochs": config["checkpointing"]["every_n_epochs"]}
    if config["lr_find"]:  # each seed finds its own learning rate
        kept["optimizer"] = {k: v for k, v in kept["optimizer"].items() if k != "lr"}
    return kept


def _as_stated(method: Any) -> Any:
    """Return the settings of a method without those that earlier versions did not state."""
    if not isinstance(method, Mapping) or method.get("per_source") is not False:
        return method
    return {k: v for k, v in method.items() if k not in ("per_source", "num_sources")}


def job_key(config: Mapping[str, Any]) -> str:
    """Return a short hash of what a sweep job computes, including its seed and callbacks.

    The hash is of the configuration as composed, before ``auto`` is resolved, so a job has the
    same key on nodes with and without a GPU.

    Args:
        config: The configuration as plain values, without the ``hydra`` node.
    """
    kept = identity(config)
    callbacks = config.get("callbacks") or {}
    kept |= {key: config[key] for key in ("seed", "track_target")}
    kept["callbacks"] = {key: value for key, value in callbacks.items() if key != "progress_bar"}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


#: Prefixes of settings that may change when a run is resumed: hardware, run length and paths.
_FREE = (
    "trainer.", "cache.", "channels_last", "compile", "lr_find", "init", "optimizer.fused",
    "backbone.checkpoint", "backbone.grad_checkpointing", "backbone.package", "backbone.pretrained",
    "backbone.in_features",  # taken from the data
    "interpolation",  # after training
    "data.eval_batch_size", "data.pin_memory", "data.download", "data.root", "data.source.root",
    "data.target.root",
)  # fmt: skip
#: Ends of settings of methods that are taken from the data.
_FROM_DATA = (".num_sources", ".num_samples")
#: Settings of the trainer that affect what a step computes.
_STEPS = ("trainer.accumulate_grad_batches", "trainer.gradient_clip_val")
#: Nodes whose set of names must not change between a run and its continuation.
_SETS = ("method", "regularizer", "aux_tasks")


def other_settings(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the settings that affect a run's result and differ between two configurations.

    Args:
        stored: The configuration in a checkpoint.
        current: The configuration of the run that would resume from it.

    Returns:
        Messages such as ``seed=0, now 1``, sorted.
    """
    old, new = ({"seed": config["seed"], **identity(config)} for config in (stored, current))
    changes, members = [], []
    for name in _SETS:
        before, now = (set(config.get(name) or {}) for config in (old, new))
        if before != now:
            shown = [f"[{','.join(sorted(names))}]" for names in (before, now)]
            changes.append(f"{name}={shown[0]}, now {shown[1]}")
            members += [f"{name}.{one}." for one in before ^ now]
    flat_old, flat_new = flatten(old), flatten(new)
    changes += [
        f"{key}={flat_old.get(key, 'absent')}, now {flat_new.get(key, 'absent')}"
        for key in flat_old.keys() | flat_new.keys()
        if _comparable(flat_old.get(key)) != _comparable(flat_new.get(key))
        and (key in _STEPS or not (key.startswith(_FREE) or key.endswith(_FROM_DATA)))
        and key not in _SETS
        and not key.startswith(tuple(members))  # named above
    ]
    return sorted(changes)


def _comparable(value: Any) -> Any:
    """Return the part of a value that is compared: the file name of a path, as folders may move.

    >>> _comparable("/my/books.npz") == _comparable("books.npz"), _comparable(1) == _comparable(1.0)
    (True, True)
    """
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    return Path(value).name if isinstance(value, str) and "/" in value else value
