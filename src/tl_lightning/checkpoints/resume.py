"""What a run goes on from, and whether that is the same run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tl_lightning.checkpoints.io import last_good, read_checkpoint
from tl_lightning.config.identity import other_settings
from tl_lightning.errors import CheckpointError

__all__ = ["Start", "resume_point"]

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
