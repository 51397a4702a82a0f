"""BSP: batch spectral penalisation, for use with an adversarial method.

Chen, Wang, Long, Wang (2019): Transferability vs. Discriminability: Batch Spectral Penalization for
Adversarial Domain Adaptation. ICML.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tl_lightning.losses.singular_values import singular_values
from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import DOMAINS, Context, Views

__all__ = ["BSP"]


class BSP(Penalty):
    """Sum of the ``k`` largest squared singular values of both domains' feature matrices.

    Combine it with an adversarial method (``method=[dann,bsp]``) to keep the features from
    collapsing onto a few directions.

    Args:
        k: Number of singular values.
        kwargs: As in :class:`Penalty`.
    """

    tasks = TASKS

    def __init__(self, *, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the penalty for features ``(B_s, D)`` and ``(B_t, D)``."""
        both = [views[domain].features for domain in DOMAINS]
        values = [singular_values(features)[: self.k] for features in both]
        total: Tensor = values[0].square().sum() + values[1].square().sum()
        return total
