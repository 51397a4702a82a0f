"""Position of a run in its epochs, from which samplers start."""

from __future__ import annotations

from typing import Any

import lightning as L

__all__ = ["position_of"]


def position_of(trainer: L.Trainer | None, num_batches: int) -> tuple[int, int]:
    """Return the epoch and its first batch: a resumed run continues in the middle of one.

    Args:
        trainer: The trainer, or None outside of training.
        num_batches: Batches per epoch before the trainer's limit.
    """
    if trainer is None:
        return 0, 0
    limit = trainer.limit_train_batches
    if limit is not None:
        limited = int(num_batches * limit) if isinstance(limit, float) else limit
        num_batches = max(1, min(num_batches, limited))
    # Batches processed in all epochs so far.
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return divmod(int(total.processed), num_batches)
