"""One printed line per epoch, for log files where a progress bar would be unreadable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["ConsoleLog"]

SHOWN = ("train/loss", "source/val/acc", "target/val/im", "health/a_distance")


class ConsoleLog(L.Callback):
    """Print the main metrics of each epoch on rank 0."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the timer; an epoch resumed in the middle has no epoch start."""
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the timer."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print epoch, metrics and duration."""
        # Read on every rank: computing the metrics is a collective operation.
        self._print(trainer, trainer.callback_metrics)

    @rank_zero_only
    def _print(self, trainer: L.Trainer, values: Mapping[str, Any]) -> None:
        shown = "  ".join(f"{name} {float(values[name]):.3f}" for name in SHOWN if name in values)
        seconds = time.monotonic() - self.started
        total = trainer.max_epochs
        print(f"epoch {trainer.current_epoch + 1}/{total}  {shown}  {seconds:.1f} s", flush=True)
