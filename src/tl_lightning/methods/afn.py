"""AFN: stepwise adaptive feature norms.

Xu, Li, Yang, Lin (2019): Larger Norm More Transferable: An Adaptive Feature Norm Approach for
Unsupervised Domain Adaptation. ICCV.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import DOMAINS, Context, Views

__all__ = ["AFN", "norm_gap"]


def norm_gap(features: Tensor, step: float) -> Tensor:
    """Return the mean of ``(|f|_const + step - |f|)^2`` over the rows of ``(B, D)``.

    The value is always ``step^2``; only the gradient matters, which increases every norm.
    """
    norms: Tensor = torch.linalg.vector_norm(features, dim=1)
    return (norms.detach() + step - norms).square().mean()


class AFN(Penalty):
    """Enlarges every sample's feature norm step by step, equally in both domains.

    Args:
        step: Increment of the target norm over the current norm.
        kwargs: As in :class:`Penalty`.
    """

    tasks = TASKS

    def __init__(self, *, step: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the sum of both domains' norm gaps for features ``(B, D)``."""
        both = [views[domain].features for domain in DOMAINS]
        ctx.log("norm_source", both[0].detach().norm(dim=1).mean())
        ctx.log("norm_target", both[1].detach().norm(dim=1).mean())
        return norm_gap(both[0], self.step) + norm_gap(both[1], self.step)
