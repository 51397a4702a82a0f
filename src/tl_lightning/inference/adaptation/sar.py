"""SAR: sharpness-aware and reliable entropy minimisation over the stream.

Niu, Wu, Zhang, Wen, Chen, Zhao, Tan (2023): Towards Stable Test-Time Adaptation in Dynamic Wild
World. ICLR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tl_lightning.inference.adaptation.tent import Tent, reliable_below
from tl_lightning.methods.entropy import entropies

__all__ = ["SAR", "adapted_by_sar"]

#: Length of the perturbation of the parameters.
RADIUS = 0.05
#: Momentum of the mean loss, and the fraction of the largest entropy below which the trained model
#: is restored: the paper's 0.2 for 1,000 classes.
MOMENTUM, RECOVERY = 0.9, 0.2 / math.log(1000)
#: Fraction of the normalisation layers, the last ones, that are not adapted. The authors leave out
#: the last of four stages of a ResNet, and the last three of twelve blocks of a ViT.
LEFT_OUT = 0.25


def adapted_by_sar(norms: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the layers that are adapted: all but the last quarter, and at least one."""
    return list(norms[: max(1, len(norms) - int(LEFT_OUT * len(norms)))])


class SAR(Tent):
    """Steps on the entropy of reliable samples, with the gradient at the worst nearby parameters.

    The trained model is restored when the mean loss has become so small that the model is about to
    collapse. The mean continues, as in the authors' code, which sets it again after it has restored
    the model: where the trained model itself is so certain, it is restored after every step.

    Args:
        parameters: Scales and shifts of the adapted normalisation layers.
        lr: Learning rate.
    """

    def reset(self) -> None:
        """Forget what was learned."""
        super().reset()
        #: Moving average of the loss.
        self.mean: float | None = None

    def update(self, logits: Tensor, forward: Callable[[], Tensor]) -> bool:
        """Take a step, if any sample is reliable."""
        margin = reliable_below(logits.shape[1])
        first = entropies(logits)
        reliable = first.detach() < margin
        if not reliable.any():
            return False
        before = self._perturbed(first[reliable].mean())
        second = entropies(forward())
        reliable &= second.detach() < margin
        usable = bool(reliable.any() and torch.isfinite(second).all())
        loss = second[reliable].mean() if usable else None
        self.optimizer.zero_grad()
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter, former in zip(self.parameters, before, strict=True):
                parameter.copy_(former)
        if loss is None:
            return False
        self.optimizer.step()
        self.taken += 1
        value = float(loss.detach())
        self.mean = value if self.mean is None else MOMENTUM * self.mean + (1 - MOMENTUM) * value
        return self.mean < RECOVERY * math.log(max(2, logits.shape[1]))

    def _perturbed(self, loss: Tensor) -> list[Tensor]:
        """Move the parameters along the gradient; return what they were."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        found = [g for g in gradients if g is not None]
        norm = torch.stack([g.norm() for g in found]).norm() if found else torch.tensor(0.0)
        before = [one.detach().clone() for one in self.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.add_(gradient * (RADIUS / (norm + 1e-12)))
        return before

    def state(self) -> dict[str, Any]:
        """Return the state, for :meth:`restore`."""
        return {**super().state(), "mean": self.mean}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        super().restore(state)
        self.mean = state["mean"]
