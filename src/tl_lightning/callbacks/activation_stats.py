"""What activations do while a network learns: how many saturate or die, what gradient is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from tl_lightning.layers import ACTIVATIONS

__all__ = ["Activations", "Meter", "counts", "weight_gradients"]

#: An output this near to an end of its range counts as saturated; outputs of tanh span twice that
#: of sigmoid, so their slope there is 0.02 and 0.01.
_MARGIN = 0.01
_WATCHED = tuple(kind for kind in ACTIVATIONS.values() if kind is not nn.Identity)


def counts(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Return what a layer's outputs ``(B, U, ...)`` add to its counts, one or two numbers a unit.

    Of tanh and sigmoid ``(2,)``: outputs within 0.01 of an end of the range, and outputs. Of all
    others ``(U,)``: outputs above zero, by unit (a channel of a map is one unit). Counts of several
    batches, or of several processes, add up.

    >>> counts(nn.Tanh(), torch.tensor([[0.0, 0.995], [-0.995, 1.0]])).tolist()
    [3.0, 4.0]
    >>> counts(nn.ReLU(), torch.tensor([[0.0, 2.0], [0.0, 1.0]])).tolist()
    [0.0, 2.0]
    """
    values = outputs.detach().double()
    if isinstance(layer, nn.Tanh | nn.Sigmoid):
        low = -1.0 if isinstance(layer, nn.Tanh) else 0.0
        ends = (values > 1.0 - _MARGIN) | (values < low + _MARGIN)
        return torch.stack([ends.sum(), ends.new_tensor(ends.numel(), dtype=torch.long)]).double()
    return (values > 0).movedim(1, -1).flatten(0, -2).sum(0).double()


def share(layer: nn.Module, total: Tensor) -> Tensor:
    """Return the saturated share of all outputs, or the share of units that were never positive."""
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
    """Counts the outputs of every activation in a module while :meth:`watching`.

    Args:
        module: Its layers are found by their type.

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
        """Count what runs inside, of the samples ``real (B,)`` only where that is given."""

        def hook(name: str) -> Any:
            def add(layer: nn.Module, inputs: Any, outputs: Tensor) -> None:
                found = counts(layer, outputs if real is None else outputs[real])
                self.total[name] = self.total[name] + found if name in self.total else found

            return add

        handles = [m.register_forward_hook(hook(name)) for name, m in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def shares(self) -> dict[str, Tensor]:
        """Return each layer's :func:`share`, of the layers that ran."""
        return {name: share(self.layers[name], total) for name, total in self.total.items()}


class Activations(L.Callback):
    """Log what each activation does on the source's validation pictures, and each layer's gradient.

    ``activation/<layer>/saturated`` is the share of a tanh's or sigmoid's outputs within 0.01 of an
    end of its range; of another activation the share of dead units, never above zero on any of the
    pictures (a channel is one unit). ``activation/<layer>/grad`` is the mean over some steps of the
    epoch of the Euclidean norm of a linear or convolutional layer's weight gradient, before
    clipping. Looks only: the weights are bit for bit those of a run without it.

    Args:
        every_n_steps: Steps between two looks at the gradients.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.gradients: dict[str, Tensor] = {}
        self.looks = 0
        self.meter: Meter | None = None
        self.watch: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's sums so far."""
        return {"gradients": dict(self.gradients), "looks": self.looks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on adding."""
        self.gradients, self.looks = dict(state_dict["gradients"]), state_dict["looks"]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Add the gradients of this step, if it is its turn."""
        if trainer.global_step % self.every_n_steps:
            return
        self.looks += 1
        for name, norm in weight_gradients(pl_module).items():
            before = self.gradients.get(name, torch.zeros_like(norm)).to(norm.device)
            self.gradients[name] = before + norm

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's mean gradients and start again."""
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
        """Watch the source's pictures, which come first."""
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
        """Stop watching; show the features to the adapters, which do not take part in a forward."""
        if self.watch is None or self.meter is None:
            return
        self.watch.__exit__(None, None, None)
        self.watch = None
        adapters: Any = getattr(pl_module, "adapters", {})
        with self.meter.watching(), torch.no_grad():
            for adapter in adapters.values():
                adapter.domain_logits(outputs["features"], outputs["logits"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's shares, of the pictures of all ranks."""
        if self.meter is None:
            return
        for name, total in self.meter.total.items():
            self.meter.total[name] = trainer.strategy.reduce(total, reduce_op="sum")
        for name, value in self.meter.shares().items():
            pl_module.log(f"activation/{name}/saturated", value.float())
        self.meter = None
