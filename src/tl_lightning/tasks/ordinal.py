"""Ordered levels as a main task: the last layer of the head, and the error in levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from tl_lightning.tasks.head import Head

__all__ = ["LevelError", "OrderedLevels", "make_ordinal"]


class OrderedLevels(nn.Module):
    r"""Log-probabilities of ``K`` ordered levels, from a single line and ordered thresholds.

    Cao, Mirjalili, Raschka (2020): Rank consistent ordinal regression for neural networks with
    application to age estimation. Pattern Recognition Letters 140. :math:`P(y > k) = \sigma(w x +
    b_k)` with shared weights :math:`w`. The paper shows that the thresholds :math:`b_k` of the
    optimum are ordered; here they are so during training as well, :math:`b_{k+1} = b_k -
    \mathrm{softplus}(g_k)`, so that every level has a positive probability.

    Args:
        in_features: Width of ``x``.
        levels: ``K``.
    """

    def __init__(self, in_features: int, levels: int) -> None:
        super().__init__()
        self.line = nn.Linear(in_features, 1, bias=False)
        self.first = nn.Parameter(torch.tensor([(levels - 2) / 2]))
        # softplus(0.5413) = 1: thresholds with equal distances around 0.
        self.gaps = nn.Parameter(torch.full((levels - 2,), 0.5413248546129181))

    def forward(self, features: Tensor) -> Tensor:
        """Return the log-probabilities ``(B, K)`` for features ``(B, D)``, in float32."""
        steps = functional.softplus(self.gaps.float())
        thresholds = torch.cat([self.first, self.first - steps.cumsum(0)]).float()
        z = self.line(features).float() + thresholds
        # log (s(a) - s(b)) = log s(a) + log s(-b) + log (1 - exp(b - a)) for a > b. The difference
        # a - b is a step; that of two large numbers in float32 may be rounded to 0.
        inner = functional.logsigmoid(z[:, :-1]) + functional.logsigmoid(-z[:, 1:])
        inner = inner + torch.log(-torch.expm1(-steps))
        ends = functional.logsigmoid(-z[:, :1]), functional.logsigmoid(z[:, -1:])
        return torch.cat([ends[0], inner, ends[1]], dim=1)


def make_ordinal(head: Head, levels: int) -> None:
    """Replace the last layer of a head by :class:`OrderedLevels`."""
    last = head.classifier[-1]
    assert isinstance(last, nn.Linear)
    head.classifier[-1] = OrderedLevels(last.in_features, levels)


class LevelError(Metric):
    """Mean absolute difference of the most probable level and the true one, in levels.

    >>> error = LevelError()
    >>> error.update(torch.tensor([[0.0, 1.0, 5.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 1]))
    >>> error.compute().item()
    1.0
    """

    full_state_update = False
    distance: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("distance", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits ``(B, K)`` and levels ``(B,)``."""
        self.distance += (logits.argmax(1) - labels).abs().sum()
        self.count += len(labels)

    def compute(self) -> Tensor:
        """Return the mean over all samples added so far."""
        return self.distance / self.count
