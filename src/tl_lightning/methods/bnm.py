"""BNM: batch nuclear-norm maximisation on target predictions.

Cui, Wang, Zhuo, Li, Huang, Tian (2020): Towards Discriminability and Diversity: Batch Nuclear-norm
Maximization under Label Insufficient Situations. CVPR.
"""

from __future__ import annotations

from torch import Tensor

from tl_lightning.losses.singular_values import singular_values
from tl_lightning.methods.base import Penalty
from tl_lightning.types import Context, Views

__all__ = ["BNM"]


class BNM(Penalty):
    """``-|P|_* / B``: confident and diverse predictions have a large nuclear norm."""

    required_domains = frozenset({"target"})

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the negative nuclear norm of the target probabilities ``(B, K)``, per sample."""
        probs = views["target"].logits.softmax(1)
        norm: Tensor = singular_values(probs).sum()
        return -norm / len(probs)
