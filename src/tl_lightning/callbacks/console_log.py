"""Output of a training: one line per epoch, and a progress bar in a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["ConsoleLog", "ProgressBar"]

SHOWN = (
    "train/loss", "source/val/loss", "source/val/acc", "source/val/mae", "target/val/im",
    "health/a_distance",
)  # fmt: skip


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


class ProgressBar(RichProgressBar):
    """Progress bar of Lightning with epochs counted from 1 and the main metrics so far."""

    loss: Any = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Keep the loss of the step and advance the bar."""
        self.loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        super().on_train_batch_end(trainer, pl_module, outputs, *args)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the loss of the last step and the metrics of the last validation."""
        values = trainer.callback_metrics
        found = {} if self.loss is None else {"loss": float(self.loss)}
        return found | {name: float(values[name]) for name in SHOWN[1:] if name in values}

    def _get_train_description(self, current_epoch: int) -> str:
        total = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}" + ("" if total is None else f"/{total}")
