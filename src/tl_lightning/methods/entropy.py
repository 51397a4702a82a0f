"""Entropy minimisation on the target.

Grandvalet, Bengio (2004): Semi-supervised Learning by Entropy Minimization. NeurIPS.
"""

from __future__ import annotations

from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.types import Context, Views

__all__ = ["Entropy", "mean_entropy"]


def mean_entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of predictions ``(B, K)`` in nats."""
    logp = logits.log_softmax(1)
    return -(logp.exp() * logp).sum(1).mean()


class Entropy(Penalty):
    """The mean entropy of the target's predictions; needs no source."""

    reads = frozenset({"target"})

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the entropy of the target's logits ``(B, K)``."""
        return mean_entropy(views["target"].logits)
