"""Stops a run that is worse than others were at the same epoch."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L

from tl_lightning.errors import TrainingError

__all__ = ["Pruned", "Pruning"]


class Pruned(TrainingError):
    """The run was stopped because others were better; nothing is wrong with it."""


class Pruning(L.Callback):
    """Tell a judge the run's figure after every validation, and stop the run if it says so.

    Args:
        metric: The logged value.
        judge: Given the value and the epoch, says whether the run ends here. Called once an epoch,
            and not for epochs without the value.
    """

    def __init__(self, *, metric: str, judge: Callable[[float, int], bool]) -> None:
        self.metric, self.judge = metric, judge

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask the judge.

        Raises:
            Pruned: If it says that the run ends.
        """
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or value is None:
            return
        if self.judge(float(value), trainer.current_epoch):
            raise Pruned(
                f"stopped after epoch {trainer.current_epoch + 1}: {self.metric} was "
                f"{float(value):.4g}, worse than that of other trials at this epoch"
            )
