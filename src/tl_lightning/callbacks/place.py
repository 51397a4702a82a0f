"""Where in a run a checkpoint was written, as Lightning's loops count it."""

from __future__ import annotations

from typing import Any

__all__ = ["as_before_validation"]


def as_before_validation(checkpoint: dict[str, Any]) -> None:
    """Say in a checkpoint that its epoch's batches are done and its validation has to be made.

    Lightning goes back to a validation only if it was cut in the middle of a batch, and then goes
    on in that middle without the figures of the batches before. It is told that this was the first.

    Args:
        checkpoint: Written after an epoch's last batch, before or in its validation; changed.
    """
    loops = checkpoint["loops"]["fit_loop"]
    for count in ("total", "current"):
        batches = loops["epoch_loop.batch_progress"][count]
        batches |= dict.fromkeys(("started", "processed", "completed"), batches["ready"])
        loops["epoch_loop.val_loop.batch_progress"][count] = {
            "ready": 1, "started": 1, "processed": 0, "completed": 0,
        }  # fmt: skip
    loops["epoch_loop.val_loop.batch_progress"]["is_last_batch"] = False
    checkpoint["before_validation"] = True
