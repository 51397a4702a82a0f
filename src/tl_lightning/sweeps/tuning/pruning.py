"""Pruning: stop a trial that is worse than others at the same epoch."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L

from tl_lightning.errors import TrainingError

__all__ = ["Pruned", "Pruning"]


class Pruned(TrainingError):
    """The run was stopped because other trials were better; it did not fail."""


class Pruning(L.Callback):
    """Report a metric after every validation, and stop the run if it should be pruned.

    Args:
        metric: Name of the logged metric.
        judge: Takes the value and the epoch, and returns whether to stop the run. Called once per
            epoch in which the metric was logged.
    """

    def __init__(self, *, metric: str, judge: Callable[[float, int], bool]) -> None:
        self.metric, self.judge = metric, judge

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metric.

        Raises:
            Pruned: If the judge decides to stop the run.
        """
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or value is None:
            return
        if self.judge(float(value), trainer.current_epoch):
            raise Pruned(
                f"stopped after epoch {trainer.current_epoch + 1}: {self.metric} was "
                f"{float(value):.4g}, worse than in other trials at this epoch"
            )
