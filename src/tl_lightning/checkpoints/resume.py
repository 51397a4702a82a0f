"""Resuming: the checkpoint to start from, and a check that it is from the same run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tl_lightning.checkpoints.io import last_good, read_checkpoint
from tl_lightning.config.identity import other_settings
from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import CheckpointError
from tl_lightning.utils.text import shorten

__all__ = ["Start", "resume_point"]

#: Number of differences listed in a message.
_LISTED = 4


class Start(NamedTuple):
    """Starting point of a run.

    Attributes:
        checkpoint: Checkpoint to resume from, or None for a new run.
        steps: Number of optimizer steps completed in it.
    """

    checkpoint: str | None = None
    steps: int = 0


def resume_point(run: RunConfig, run_dir: Path) -> Start:
    """Return the checkpoint that a run resumes from, if any.

    Args:
        run: The checked configuration.
        run_dir: Folder of the run.

    Raises:
        CheckpointError: If the given checkpoint does not exist, has completed more epochs than
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
    epoch, epochs = stored["epoch"], run.trainer.max_epochs
    if epochs is not None and epoch > epochs:
        raise CheckpointError(
            f"{path} has completed {epoch} epochs, more than trainer.max_epochs={epochs}; "
            f"set trainer.max_epochs={epoch + 1} or more"
        )
    _check_same_run(path, stored["hyper_parameters"]["config"], run)
    return Start(str(path), int(stored["global_step"]))


def _check_same_run(path: Path, saved: Mapping[str, Any], run: RunConfig) -> None:
    """Raise or warn if a checkpoint was trained with settings other than those of this run."""
    other = other_settings(saved, run.plain)
    if not other:
        return
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
