"""Access to the callbacks of a trainer."""

from __future__ import annotations

from typing import Any

import lightning as L

__all__ = ["find_callback"]


def find_callback(trainer: L.Trainer, cls: type[Any]) -> Any:
    """Return the trainer's first callback of a class, or None."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((one for one in callbacks if isinstance(one, cls)), None)
