"""Losses of numbers, of several labels, and of ordered levels."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.config.hints import above

__all__ = ["AbsoluteError", "BinaryCrossEntropy", "Coral", "Huber", "SquaredError"]

#: Halvings of an interval, to the precision of float32.
_BISECTIONS = 30
#: Frequencies of a label, whose log odds are finite.
_FREQUENCIES = (1e-4, 1 - 1e-4)


class SquaredError(nn.Module):
    """``(z - y)^2`` of standardised numbers ``(B, K)``."""

    #: Kinds of task that it is a loss of.
    tasks: ClassVar[frozenset[str]] = frozenset({"regression"})

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses ``(B, K)``."""
        return (outputs - targets).square()

    def constant(self, targets: Tensor) -> Tensor:
        """Return the outputs ``(K,)`` of least mean loss for targets ``(N, K)``: the mean."""
        return targets.mean(0)


class AbsoluteError(nn.Module):
    """``|z - y|`` of standardised numbers ``(B, K)``; outliers count less than if squared."""

    #: Kinds of task that it is a loss of.
    tasks: ClassVar[frozenset[str]] = frozenset({"regression"})

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses ``(B, K)``."""
        return (outputs - targets).abs()

    def constant(self, targets: Tensor) -> Tensor:
        """Return the outputs ``(K,)`` of least mean loss for targets ``(N, K)``: the median."""
        return targets.median(0).values


class Huber(nn.Module):
    """Squared errors below ``delta``, absolute errors above (Huber 1964), of standardised numbers.

    ``(z - y)^2 / 2`` for ``|z - y| < delta``, else ``delta (|z - y| - delta / 2)``.

    Args:
        delta: In standard deviations of the training labels.
    """

    #: Kinds of task that it is a loss of.
    tasks: ClassVar[frozenset[str]] = frozenset({"regression"})

    def __init__(self, *, delta: Annotated[float, above(0)]) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses ``(B, K)``."""
        return functional.huber_loss(outputs, targets, reduction="none", delta=self.delta)

    def constant(self, targets: Tensor) -> Tensor:
        """Return the outputs ``(K,)`` of least mean loss for targets ``(N, K)``, by bisection.

        The derivative, the sum of ``z - y`` limited to ``[-delta, delta]``, increases with ``z``.
        """
        low, high = targets.amin(0), targets.amax(0)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            rising = (middle - targets).clamp(-self.delta, self.delta).sum(0) > 0
            low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
        return (low + high) / 2


class BinaryCrossEntropy(nn.Module):
    """Cross-entropy of each label, given its logit."""

    #: Kinds of task that it is a loss of.
    tasks: ClassVar[frozenset[str]] = frozenset({"multi_label"})

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses ``(B, K)``."""
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    def constant(self, targets: Tensor) -> Tensor:
        """Return the outputs ``(K,)`` of least mean loss for targets ``(N, K)``: their log odds."""
        return targets.mean(0).clamp(*_FREQUENCIES).logit()


class Coral(nn.Module):
    r"""Mean over the samples of the cross-entropies of "level greater than k", summed over k.

    Cao, Mirjalili, Raschka (2020): Rank consistent ordinal regression for neural networks with
    application to age estimation. Pattern Recognition Letters 140. With the probabilities ``p`` of
    the ``K`` levels and :math:`P_k = \sum_{j > k} p_j`, the loss of a sample is :math:`-\sum_k [y >
    k] \log P_k + [y \le k] \log (1 - P_k)`, with all importance weights 1.
    """

    #: Kinds of task that it is a loss of.
    tasks: ClassVar[frozenset[str]] = frozenset({"ordinal"})
    takes_weights = True

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of logits ``(B, K)`` and levels ``(B,)``, with weights ``(B,)``."""
        logp = logits.float().log_softmax(1)
        below = logp.logcumsumexp(1)[:, :-1]  # log (1 - P_k)
        above_k = logp.flip(1).logcumsumexp(1).flip(1)[:, 1:]  # log P_k
        greater = labels[:, None] > torch.arange(below.shape[1], device=labels.device)
        losses = -torch.where(greater, above_k, below).sum(1)
        return losses.mean() if weights is None else (losses * weights).mean()
