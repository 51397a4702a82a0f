"""Stop at a loss that is not finite, before it can overwrite a good checkpoint."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from tl_lightning.errors import TrainingError

__all__ = ["FiniteLoss"]


class FiniteLoss(L.Callback):
    """Check the loss every ``every_n_steps`` and at each epoch's last step.

    The check waits for the device, so it is not made in every step; the last step of an epoch is
    always checked because a checkpoint follows it.

    Args:
        every_n_steps: Steps between two checks.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Raise TrainingError if the step's loss is NaN or infinite."""
        last = batch_idx + 1 == trainer.num_training_batches
        if not last and batch_idx % self.every_n_steps:
            return
        if torch.isfinite(outputs["loss"]):
            return
        terms = ", ".join(f"{name} {value.item():.4g}" for name, value in outputs["terms"].items())
        rates = ", ".join(
            f"{group['name']} {group['lr']:.3g}" for group in trainer.optimizers[0].param_groups
        )
        raise TrainingError(
            f"the loss is not finite at epoch {trainer.current_epoch}, batch {batch_idx} ({terms}; "
            f"learning rates {rates}); checkpoints before this are intact: try a lower "
            "optimizer.lr, trainer.gradient_clip_val=1.0 or trainer.precision=32-true"
        )
