"""EMA and SWA of the weights: the averaged model is validated, checkpointed and tested.

Based on Lightning's ``WeightAveraging``, which keeps the average, swaps it in for validation and
stores both sets of weights. Differences: before ``start_epoch`` the average equals the model
(Lightning would validate and save the initial weights); testing after the fit uses the average
(Lightning would overwrite it with the current weights); the average is on the model's device from
the first step; constant values stay bit-identical; an interruption during validation saves both
sets of weights under the correct names. Lightning's ``StochasticWeightAveraging`` is not supported:
it replaces the scheduler, and updates batch norm with extra forward passes in its last epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import ConfigError

__all__ = ["EMA", "SWA", "Averaging", "move_towards"]


@torch.no_grad()
def move_towards(average: list[Tensor], now: list[Tensor], weight: float) -> None:
    """Set ``average += weight * (now - average)`` in place; integer counters are copied.

    Args:
        average: Tensors of one data type.
        now: The current values, of the same shapes.
        weight: In [0, 1].

    >>> mean = [torch.tensor([1.0])]
    >>> move_towards(mean, [torch.tensor([2.0])], 0.25)
    >>> mean
    [tensor([1.2500])]
    """
    if average[0].is_floating_point():
        # Exact if both are equal, unlike a weighted sum.
        torch._foreach_lerp_(average, now, weight)
    else:
        torch._foreach_copy_(average, now)


class Averaging(WeightAveraging):
    """Base class of EMA, SWA and SWAD.

    Args:
        start_epoch: First epoch to average, counted from 0; before it the average is the model.
        update: Updates the averaged values, given the current ones and the number of updates.
    """

    def __init__(
        self, start_epoch: int, update: Callable[[list[Tensor], list[Tensor], Tensor], None]
    ) -> None:
        super().__init__(multi_avg_fn=update)
        self.start_epoch = start_epoch
        self.swapped = False

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message per invalid setting."""
        problems, start, decay = [], params.get("start_epoch", 0), params.get("decay", 0)
        if start < 0:
            problems.append(
                f"{where}.start_epoch={start} is below 0; set {where}.start_epoch=0 to average "
                "from the first epoch"
            )
        if not 0 <= decay < 1:
            problems.append(f"{where}.decay={decay} is not in [0, 1); set {where}.decay=0.999")
        return problems

    @classmethod
    def check_run(cls, where: str, params: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
        """Yield a start that the run never reaches."""
        start, epochs = params.get("start_epoch", 0), run.trainer.max_epochs
        if epochs is not None and start >= epochs > 0:
            yield (
                f"{where}.start_epoch={start} is after the last epoch of "
                f"trainer.max_epochs={epochs} (epochs count from 0); set "
                f"{where}.start_epoch={epochs - 1} or less"
            )

    def due(self, trainer: L.Trainer) -> bool:
        """Return whether to update the average after this optimizer step."""
        raise NotImplementedError

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to the model's device, on which the model was not yet at setup."""
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
        """Update the average; before ``start_epoch`` copy the current weights."""
        early = trainer.current_epoch < self.start_epoch
        if trainer.global_step <= self._latest_update_step or not (early or self.due(trainer)):
            return
        assert self._average_model is not None
        self._average_model.update_parameters(pl_module)
        self._latest_update_step = trainer.global_step
        if early:
            self._average_model.n_averaged.zero_()  # makes the next update a copy again

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        super()._swap_models(pl_module)
        self.swapped = not self.swapped

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as the model's state, and the current weights in addition."""
        if self.swapped:
            # Interrupted during validation; the state dict shares memory with the model.
            self._swap_models(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore both sets of weights in a fit; otherwise the average is loaded already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class EMA(Averaging):
    """Exponential moving average of the weights.

    Polyak, Juditsky (1992): Acceleration of Stochastic Approximation by Averaging. SIAM J. Control
    Optim. 30(4); with exponential weights as in Tarvainen, Valpola (NeurIPS 2017).
    ``e_1 = w_1`` and ``e_t = decay e_{t-1} + (1 - decay) w_t`` after each optimizer step ``t`` from
    the first one of ``start_epoch``. Batch norm statistics are averaged in the same way.

    Args:
        decay: In [0, 1); the average covers about the last ``1 / (1 - decay)`` steps.
        start_epoch: First epoch to average, counted from 0.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(self, *, decay: float, start_epoch: int) -> None:
        params = {"decay": decay, "start_epoch": start_epoch}
        _raise_if(self.check_config("callbacks.weight_averaging", params))
        super().__init__(start_epoch, lambda mean, now, n: move_towards(mean, now, 1 - decay))

    def due(self, trainer: L.Trainer) -> bool:
        """Return True: the average is updated after every step."""
        return True


class SWA(Averaging):
    """Mean of the weights at the end of each epoch, or after each step, from ``start_epoch`` on.

    Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (2018): Averaging Weights Leads to Wider Optima
    and Better Generalization. UAI. Batch norm statistics are averaged as well; the paper recomputes
    them on the training images. After each step: the moving average of Arpit, Wang, Zhou, Xiong
    (2022): Ensemble of Averages. NeurIPS, which is part of ERM++.

    Args:
        start_epoch: First epoch to average, counted from 0.
        every_step: Whether to average after every step.

    Raises:
        ConfigError: If ``start_epoch`` is below 0.
    """

    def __init__(self, *, start_epoch: int, every_step: bool) -> None:
        _raise_if(self.check_config("callbacks.weight_averaging", {"start_epoch": start_epoch}))
        self.every_step = every_step
        super().__init__(
            start_epoch, lambda mean, now, n: move_towards(mean, now, 1 / (int(n) + 1))
        )

    def due(self, trainer: L.Trainer) -> bool:
        """Return whether this is the last step of the epoch or of the run, or any step."""
        return self.every_step or trainer.is_last_batch or trainer.global_step == trainer.max_steps


def _raise_if(problems: list[str]) -> None:
    if problems:
        raise ConfigError(problems)
