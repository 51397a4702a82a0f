"""BNM: batch nuclear-norm maximisation on the target.

Cui, Wang, Zhuo, Li, Huang, Tian (2020): Towards Discriminability and Diversity: Batch Nuclear-norm
Maximization under Label Insufficient Situations. CVPR.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.types import Context, Views

__all__ = ["BNM"]


class BNM(Penalty):
    """``-|P|_* / B``: sure predictions of many classes have a large nuclear norm."""

    reads = frozenset({"target"})

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return minus the nuclear norm of the target's probabilities ``(B, K)``, a sample."""
        shares = views["target"].logits.softmax(1)
        norm: Tensor = torch.linalg.svdvals(shares).sum()
        return -norm / len(shares)
