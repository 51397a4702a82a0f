"""BSP: batch spectral penalisation, beside an adversary.

Chen, Wang, Long, Wang (2019): Transferability vs. Discriminability: Batch Spectral Penalization for
Adversarial Domain Adaptation. ICML.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.types import Context, Views

__all__ = ["BSP"]


class BSP(Penalty):
    """The squares of the largest ``k`` singular values of both domains' feature matrices.

    Made to stand beside an adversary (``adapter=[dann,bsp]``), whose features it keeps from
    collapsing onto few directions.

    Args:
        k: How many.
        kwargs: As in :class:`Penalty`.
    """

    def __init__(self, *, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the penalty of features ``(B_s, D)`` and ``(B_t, D)``."""
        both = [views[role].features for role in ("source", "target")]
        values = [torch.linalg.svdvals(features)[: self.k] for features in both]
        total: Tensor = values[0].square().sum() + values[1].square().sum()
        return total
