"""Resuming: the checkpoint to start from, and a check that it is from the same run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tl_lightning.checkpoints.io import last_good, read_checkpoint
from tl_lightning.config.identity import other_settings
from tl_lightning.config.schema import RunConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.errors import CheckpointError
from tl_lightning.models.base import TransferModule
from tl_lightning.utils.text import shorten

__all__ = ["Start", "Stored", "check_resumed", "data_state", "resume_point"]

#: Number of differences listed in a message.
_LISTED = 4


@dataclass(frozen=True)
class Stored:
    """What a resumed run must have in common with its checkpoint.

    Attributes:
        classes: Class names in label order.
        data: The data as of :func:`data_state`; empty in checkpoints of earlier versions.
        shapes: Shapes of the weights by name.
        groups: Names of the optimizer's parameter groups.
        changed: Settings that differ from those of the run.
        optimizer: Class of the optimizer.
    """

    classes: tuple[str, ...]
    data: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    groups: tuple[str, ...]
    changed: Sequence[str]
    optimizer: str


class Start(NamedTuple):
    """Starting point of a run.

    Attributes:
        checkpoint: Checkpoint to resume from, or None for a new run.
        steps: Number of optimizer steps completed in it.
        stored: What it contains, or None for a new run.
    """

    checkpoint: str | None = None
    steps: int = 0
    stored: Stored | None = None


def resume_point(run: RunConfig, run_dir: Path) -> Start:
    """Return the checkpoint that a run resumes from, if any.

    Args:
        run: The checked configuration.
        run_dir: Folder of the run.

    Raises:
        CheckpointError: If the given checkpoint does not exist, is of an epoch after
            ``trainer.max_epochs``, or ``resume=auto`` finds one trained with different settings.
    """
    resume = run.resume
    if resume is None:
        return Start()
    place = run_dir if resume == "auto" else Path(resume)
    path = place if place.is_file() else last_good(place / "checkpoints")
    if path is None:
        if resume == "auto":
            return Start()
        raise CheckpointError(
            f"nothing to resume at resume={resume}: no checkpoint in {place / 'checkpoints'}; set "
            "resume=auto and hydra.run.dir=<folder of the run>, or resume=null"
        )
    stored = read_checkpoint(path)
    begun = int(stored["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"])
    epochs = run.trainer.max_epochs
    if epochs not in (None, -1) and begun > epochs:
        raise CheckpointError(
            f"{path} was written in epoch {begun}, but trainer.max_epochs={epochs}; set "
            f"trainer.max_epochs={begun} or more"
        )
    hyper = stored["hyper_parameters"]
    return Start(
        str(path),
        int(stored["global_step"]),
        Stored(
            tuple(hyper["classes"]),
            stored.get("data", {}),
            _shapes(stored["state_dict"]),
            tuple(_groups(stored)),
            _check_same_run(path, hyper["config"], run),
            str(hyper["config"]["optimizer"]["_target_"]),
        ),
    )


def _groups(stored: Mapping[str, Any]) -> Sequence[str]:
    return [
        group["name"] for state in stored["optimizer_states"] for group in state["param_groups"]
    ]


def _check_same_run(path: Path, saved: Mapping[str, Any], run: RunConfig) -> Sequence[str]:
    """Raise or warn if a checkpoint was trained with other settings, and return these."""
    other = other_settings(saved, run.stored)
    if not other:
        return other
    message = f"{path} was trained with different settings: {shorten(other, _LISTED, '; ')}"
    if run.resume == "auto":
        raise CheckpointError(
            f"{message}; use the same settings to resume, another hydra.run.dir for a new run, or "
            f"resume={path} to resume with the new settings"
        )
    warnings.warn(
        f"{message}; learning rates and optimizer state are restored from the checkpoint",
        stacklevel=2,
    )
    return other


def data_state(data: TransferDataModule) -> dict[str, Any]:
    """Return what a checkpoint stores of the data: fingerprint, counts, and batches.

    Args:
        data: A data module after ``discover``, without a trainer, so that the batches are those of
            one rank.
    """
    return {
        "fingerprint": data.fingerprint(), "counts": data.counts(), "batches": data.num_batches,
        "fitted": data.fitted and list(data.fitted),
    }  # fmt: skip


def check_resumed(start: Start, module: TransferModule, optimizer: str) -> None:
    """Check that a run continues with the model and the classes of its checkpoint.

    Samples may have been added, removed or replaced, which causes a warning.

    Args:
        start: The starting point.
        module: The model of the run, with the state of its data.
        optimizer: Class of its optimizer.

    Raises:
        CheckpointError: If the classes, the model, or the batches per epoch are different.
    """
    stored, path = start.stored, start.checkpoint
    if stored is None:
        return
    if stored.classes != module.classes:
        raise CheckpointError(
            f"{path} was trained with other classes: {_class_changes(stored, module.classes)}; "
            "restore the classes of the data, or train a new run in another hydra.run.dir"
        )
    if problem := _model_change(stored, module, optimizer):
        raise CheckpointError(
            f"{path} contains another model than this run: {problem}; use the settings of that "
            "run, or resume=null to train a new one"
        )
    _check_data(stored.data, module.data_state, str(path))


def _class_changes(stored: Stored, classes: Sequence[str]) -> str:
    before, now = set(stored.classes), set(classes)
    parts = {"removed": before - now, "added": now - before}
    texts = [f"{text} {shorten(sorted(names))}" for text, names in parts.items() if names]
    order = f"in the order {shorten(stored.classes)}, now {shorten(classes)}"
    return ", ".join(texts) or order


def _model_change(stored: Stored, module: TransferModule, optimizer: str) -> str:
    """Return how the model or its optimizer differs, or an empty string."""
    settings = f" ({shorten(stored.changed, _LISTED, '; ')})" if stored.changed else ""
    now = _shapes(module.state_dict())
    if (before := stored.shapes) != now:
        name = next(k for k in {**before, **now} if before.get(k) != now.get(k))
        texts = [_shape(shapes.get(name)) for shapes in (before, now)]
        return f"{name} {texts[0]}, now {texts[1]}{settings}"
    if stored.optimizer != optimizer:
        return f"its optimizer is {stored.optimizer}, now {optimizer}"
    groups = tuple(
        name
        for name, (members, _) in module.parameter_groups().items()
        if any(parameter.requires_grad for parameter in members)
    )
    if stored.groups != groups:
        texts = [", ".join(names) for names in (stored.groups, groups)]
        return f"its optimizer has the parameter groups {texts[0]}, now {texts[1]}{settings}"
    return ""


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of weights; a module's own state, such as a memory, may have any."""
    return {
        name: tuple(weight.shape)
        for name, weight in state.items()
        if not name.endswith("_extra_state")
    }


def _shape(shape: tuple[int, ...] | None) -> str:
    return "is absent" if shape is None else f"has the shape {list(shape)}"


def _check_data(before: Mapping[str, Any], now: Mapping[str, Any], path: str) -> None:
    """Warn if samples have changed; raise if epochs would not have the same batches."""
    if not before or before["fingerprint"] == now["fingerprint"]:
        return
    counts = [
        f"{split} {number}, now {now['counts'].get(split, 0)}"
        for split, number in before["counts"].items()
        if number != now["counts"].get(split, 0)
    ]
    changes = ", ".join(counts) or "equal numbers, but other names, contents or labels of samples"
    message = f"the data have changed since {path} was written: {changes}"
    if before.get("sources") != now.get("sources"):
        names = [", ".join(data.get("sources") or ()) for data in (before, now)]
        raise CheckpointError(
            f"{message}; its layers are those of the source domains {names[0]}, now {names[1]}; "
            "restore the domains, or train a new run in another hydra.run.dir"
        )
    if before["batches"] != now["batches"]:
        raise CheckpointError(
            f"{message}; an epoch had {before['batches']} batches and has {now['batches']} now, so "
            f"that its position is undefined; set data.steps_per_epoch={before['batches']} and "
            f"resume={path} to continue, or another hydra.run.dir for a new run"
        )
    warnings.warn(f"{message}; the run continues with the data as they are now", stacklevel=2)
