"""Activation statistics during training: saturated or dead units, and gradient norms by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from tl_lightning.layers import ACTIVATIONS

__all__ = ["ActivationStats", "Meter", "counts", "weight_gradients"]

#: An output this close to a bound of its range counts as saturated. The range of tanh is twice that
#: of sigmoid, so the slopes there are 0.02 and 0.01.
_MARGIN = 0.01
_WATCHED = tuple(kind for kind in ACTIVATIONS.values() if kind is not nn.Identity)


def counts(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Return additive counts for the outputs ``(B, U, ...)`` of an activation layer.

    For tanh and sigmoid ``(2,)``: the number of outputs within 0.01 of a bound, and of all outputs.
    For other activations ``(U,)``: the number of positive outputs per unit, where a channel of a
    feature map is one unit. Counts can be summed over batches and ranks.

    >>> counts(nn.Tanh(), torch.tensor([[0.0, 0.995], [-0.995, 1.0]])).tolist()
    [3.0, 4.0]
    >>> counts(nn.ReLU(), torch.tensor([[0.0, 2.0], [0.0, 1.0]])).tolist()
    [0.0, 2.0]
    """
    values = outputs.detach().double()
    if isinstance(layer, nn.Tanh | nn.Sigmoid):
        low = -1.0 if isinstance(layer, nn.Tanh) else 0.0
        near = (values > 1.0 - _MARGIN) | (values < low + _MARGIN)
        return torch.stack([near.sum(), near.new_tensor(near.numel(), dtype=torch.long)]).double()
    return (values > 0).movedim(1, -1).flatten(0, -2).sum(0).double()


def share(layer: nn.Module, total: Tensor) -> Tensor:
    """Return the fraction of saturated outputs, or of units that were never positive."""
    if isinstance(layer, nn.Tanh | nn.Sigmoid):
        return total[0] / total[1]
    return (total == 0).double().mean()


def weight_gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the Euclidean norm of each linear or convolutional layer's weight gradient."""
    return {
        name: layer.weight.grad.detach().norm()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.grad is not None
    }


class Meter:
    """Count the outputs of every activation in a module while :meth:`watching` is active.

    Args:
        module: Searched for activation layers by type.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> meter = Meter(net)
    >>> with torch.no_grad(), meter.watching():
    ...     _ = net[1](torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0]]))
    >>> round(meter.shares()["1"].item(), 3)
    0.333
    """

    def __init__(self, module: nn.Module) -> None:
        self.layers = {n: m for n, m in module.named_modules() if isinstance(m, _WATCHED)}
        self.total: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, real: Tensor | None = None) -> Iterator[None]:
        """Count forward passes inside the context; ``real (B,)`` masks padding samples."""

        def hook(name: str) -> Any:
            def add(layer: nn.Module, inputs: Any, outputs: Tensor) -> None:
                new = counts(layer, outputs if real is None else outputs[real])
                self.total[name] = self.total[name] + new if name in self.total else new

            return add

        handles = [m.register_forward_hook(hook(name)) for name, m in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def shares(self) -> dict[str, Tensor]:
        """Return the :func:`share` of each layer that ran."""
        return {name: share(self.layers[name], total) for name, total in self.total.items()}


class ActivationStats(L.Callback):
    """Log activation saturation on source validation images and gradient norms per layer.

    ``activation/<layer>/saturated`` is, for tanh and sigmoid, the fraction of outputs within 0.01
    of a bound; for other activations, the fraction of dead units, never positive on any image (a
    channel is one unit). ``activation/<layer>/grad`` is the Euclidean norm of a linear or
    convolutional layer's weight gradient before clipping, averaged over every ``every_n_steps``-th
    step of the epoch. Training is unaffected: weights are bit-identical with and without it.

    Args:
        every_n_steps: Steps between two gradient measurements.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.gradients: dict[str, Tensor] = {}
        self.looks = 0
        self.meter: Meter | None = None
        self.watch: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Return the gradient norms summed over the epoch so far."""
        return {"gradients": dict(self.gradients), "looks": self.looks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums."""
        self.gradients, self.looks = dict(state_dict["gradients"]), state_dict["looks"]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Add the gradient norms of every ``every_n_steps``-th step."""
        if trainer.global_step % self.every_n_steps:
            return
        self.looks += 1
        for name, norm in weight_gradients(pl_module).items():
            total = self.gradients.get(name, torch.zeros_like(norm)).to(norm.device)
            self.gradients[name] = total + norm

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the mean gradient norms of the epoch and reset the sums."""
        for name, total in self.gradients.items():
            pl_module.log(f"activation/{name}/grad", total / self.looks)
        self.gradients, self.looks = {}, 0

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count activations on source images, the first dataloader."""
        if dataloader_idx == 0 and not trainer.sanity_checking:
            self.meter = self.meter or Meter(pl_module)
            self.watch = self.meter.watching(batch["index"] >= 0)
            self.watch.__enter__()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remove the hooks; run the discriminators, which are not part of a forward pass."""
        if self.watch is None or self.meter is None:
            return
        self.watch.__exit__(None, None, None)
        self.watch = None
        methods: Any = getattr(pl_module, "methods", {})
        with self.meter.watching(), torch.no_grad():
            for method in methods.values():
                method.domain_logits(outputs["features"], outputs["logits"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the fractions over the images of all ranks."""
        if self.meter is None:
            return
        for name, total in self.meter.total.items():
            self.meter.total[name] = trainer.strategy.reduce(total, reduce_op="sum")
        for name, value in self.meter.shares().items():
            pl_module.log(f"activation/{name}/saturated", value.float())
        self.meter = None
