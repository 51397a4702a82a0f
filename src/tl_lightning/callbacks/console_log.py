"""One line an epoch, for logs and pipes where a progress bar would fill the file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["EpochLines"]

SHOWN = ("train/loss", "source/val/acc", "target/val/im", "health/a_distance")


class EpochLines(L.Callback):
    """Print the epoch's main figures."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, also of an epoch resumed in its middle."""
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line."""
        # Asked for on every rank: the ranks' means are taken here, and one alone would wait.
        self._print(trainer, trainer.callback_metrics)

    @rank_zero_only
    def _print(self, trainer: L.Trainer, values: Mapping[str, Any]) -> None:
        shown = "  ".join(f"{name} {float(values[name]):.3f}" for name in SHOWN if name in values)
        seconds = time.monotonic() - self.started
        total = trainer.max_epochs
        print(f"epoch {trainer.current_epoch + 1}/{total}  {shown}  {seconds:.1f} s", flush=True)
