"""Entropy minimisation on the target.

Grandvalet, Bengio (2004): Semi-supervised Learning by Entropy Minimization. NeurIPS.
"""

from __future__ import annotations

from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.types import Context, Views

__all__ = ["Entropy", "entropies", "mean_entropy"]


def entropies(logits: Tensor) -> Tensor:
    """Return the entropy of each prediction ``(B,)`` from logits ``(B, K)``, in nats."""
    logp = logits.log_softmax(1)
    return -(logp.exp() * logp).sum(1)


def mean_entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of the predictions ``(B, K)``, in nats."""
    return entropies(logits).mean()


class Entropy(Penalty):
    """Mean entropy of the target predictions; does not use the source."""

    required_domains = frozenset({"target"})

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the mean entropy of the target logits ``(B, K)``."""
        return mean_entropy(views["target"].logits)
