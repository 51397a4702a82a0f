"""Averages of the weights along the run: what is validated, kept and tested is the average.

Lightning's ``WeightAveraging`` holds the average, swaps it in for validation and stores both sets
of weights. Changed here: before it starts the average is the model itself (Lightning would validate
and keep the weights that the run began with); a test after the run loads the average (Lightning
would load the current weights over it); it lives on the model's device from the first step; a value
that does not move stays as it is bit for bit; an interruption in the middle of a validation saves
the two sets under their own names. Lightning's ``StochasticWeightAveraging`` is not offered: it
replaces the scheduler, and its last epoch updates batch norm by forward passes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from tl_lightning.errors import ConfigError

__all__ = ["EMA", "SWA", "move_towards"]


@torch.no_grad()
def move_towards(average: list[Tensor], now: list[Tensor], share: float) -> None:
    """Set ``average += share * (now - average)`` in place; counters take the present value.

    Args:
        average: Tensors of one data type.
        now: The present ones, of the same shapes.
        share: In [0, 1].

    >>> mean = [torch.tensor([1.0])]
    >>> move_towards(mean, [torch.tensor([2.0])], 0.25)
    >>> mean
    [tensor([1.2500])]
    """
    if average[0].is_floating_point():
        # Exact where both are equal, which the weighted sum of the two is not.
        torch._foreach_lerp_(average, now, share)
    else:
        torch._foreach_copy_(average, now)


class _Averaging(WeightAveraging):
    """The parts that both averages share.

    Args:
        start_epoch: First epoch that is averaged, counted from 0; the average is the model itself
            before it.
        update: Changes the averaged values, given the present ones and how many came before.
    """

    def __init__(
        self, start_epoch: int, update: Callable[[list[Tensor], list[Tensor], Tensor], None]
    ) -> None:
        super().__init__(multi_avg_fn=update)
        self.start_epoch = start_epoch
        self.swapped = False

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        found, start, decay = [], knobs["start_epoch"], knobs.get("decay", 0)
        if start < 0:
            found.append(
                f"{where}.start_epoch={start} is below 0; type {where}.start_epoch=0 for the first "
                "epoch"
            )
        if not 0 <= decay < 1:
            found.append(f"{where}.decay={decay} is not in [0, 1); type {where}.decay=0.999")
        return found

    def due(self, trainer: L.Trainer) -> bool:
        """Return whether the weights after this optimizer step belong to the average."""
        raise NotImplementedError

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the average to the model's device; when it was made the model was not there yet."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the weights into the average, or follow them before the average starts."""
        early = trainer.current_epoch < self.start_epoch
        if trainer.global_step <= self._latest_update_step or not (early or self.due(trainer)):
            return
        assert self._average_model is not None
        self._average_model.update_parameters(pl_module)
        self._latest_update_step = trainer.global_step
        if early:
            self._average_model.n_averaged.zero_()  # so that the next update is a copy again

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        super()._swap_models(pl_module)
        self.swapped = not self.swapped

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as the model and the present weights beside it."""
        if self.swapped:
            # Interrupted in a validation; the state dict shares its memory with the model.
            self._swap_models(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from both sets of weights in a fit; elsewhere the average is loaded already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class EMA(_Averaging):
    """The exponential moving average of the weights.

    Polyak, Juditsky (1992): Acceleration of Stochastic Approximation by Averaging. SIAM J. Control
    Optim. 30(4); with exponential weights as in Tarvainen, Valpola (NeurIPS 2017).
    ``e_1 = w_1`` and ``e_t = decay e_{t-1} + (1 - decay) w_t`` after each optimizer step ``t`` from
    the first of ``start_epoch`` on. Batch norm's statistics are averaged likewise.

    Args:
        decay: In [0, 1); the average looks back about ``1 / (1 - decay)`` steps.
        start_epoch: First epoch that is averaged, counted from 0.

    Raises:
        ConfigError: If an argument is out of its range.
    """

    def __init__(self, *, decay: float, start_epoch: int) -> None:
        _refuse(self.faults("callbacks.average", {"decay": decay, "start_epoch": start_epoch}))
        super().__init__(start_epoch, lambda mean, now, n: move_towards(mean, now, 1 - decay))

    def due(self, trainer: L.Trainer) -> bool:
        """Return true: every step counts."""
        return True


class SWA(_Averaging):
    """The equal mean of the weights at the ends of the epochs from ``start_epoch`` on.

    Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (2018): Averaging Weights Leads to Wider Optima
    and Better Generalization. UAI. Batch norm's statistics are averaged too; the paper computes
    them anew from the training pictures.

    Args:
        start_epoch: First epoch that is averaged, counted from 0.

    Raises:
        ConfigError: If it is below 0.
    """

    def __init__(self, *, start_epoch: int) -> None:
        _refuse(self.faults("callbacks.average", {"start_epoch": start_epoch}))
        super().__init__(
            start_epoch, lambda mean, now, n: move_towards(mean, now, 1 / (int(n) + 1))
        )

    def due(self, trainer: L.Trainer) -> bool:
        """Return whether the epoch, or the run, ends with this step."""
        return trainer.is_last_batch or trainer.global_step == trainer.max_steps


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ConfigError(faults)
