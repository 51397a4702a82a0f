"""What a run goes on from, and whether that is the same run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tl_lightning.callbacks.storage import last_good, read_checkpoint
from tl_lightning.errors import CheckpointError
from tl_lightning.ledger import identity
from tl_lightning.report.wording import flatten

__all__ = ["Start", "other_settings", "resume_point"]

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
#: Differences that an error or a warning lists.
_SHOWN = 4


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
        checkpoint: What it goes on from, or None for a fresh start.
        steps: Optimizer steps that lie behind it.
    """

    checkpoint: str | None = None
    steps: int = 0


def resume_point(config: Mapping[str, Any], run_dir: Path) -> Start:
    """Return where a run starts: at a checkpoint, if there is one to go on from.

    Args:
        config: The checked configuration.
        run_dir: The run's folder.

    Raises:
        CheckpointError: If there is none where one is named, if it is further than the run is to
            go, or if ``resume=auto`` finds that of a run with other settings.
    """
    wish = config["resume"]
    if wish in (None, False):
        return Start()
    place = run_dir if wish == "auto" else Path(wish)
    found = place if place.is_file() else last_good(place / "checkpoints")
    if found is None:
        if wish == "auto":
            return Start()
        raise CheckpointError(
            f"nothing to resume at resume={wish}: no checkpoint in {place / 'checkpoints'}; type "
            "resume=auto with hydra.run.dir set to the run's folder, or resume=null"
        )
    stored = read_checkpoint(found)
    epoch, epochs = stored["epoch"], config["trainer"]["max_epochs"]
    if epochs is not None and epoch > epochs:
        raise CheckpointError(
            f"{found} has {epoch} epochs behind it, more than trainer.max_epochs={epochs}; "
            f"type trainer.max_epochs={epoch + 1} or more"
        )
    _same_run(found, stored["hyper_parameters"]["config"], config)
    return Start(str(found), int(stored["global_step"]))


def _same_run(found: Path, theirs: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse or tell that a checkpoint was trained with other settings than it goes on with."""
    other = other_settings(theirs, config)
    if not other:
        return
    more = f"; and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
    words = f"{found} was trained with other settings: {'; '.join(other[:_SHOWN])}{more}"
    if config["resume"] == "auto":
        raise CheckpointError(
            f"{words}; type them as they were to go on, another hydra.run.dir for another run, or "
            f"resume={found} to go on with the new ones all the same"
        )
    warnings.warn(f"{words}; rates and moments go on as they were", stacklevel=2)


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
