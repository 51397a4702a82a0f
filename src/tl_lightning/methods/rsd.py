"""RSD: representation subspace distance, for regression.

Chen, Wang, Wang, Long (2021): Representation Subspace Distance for Domain Adaptation Regression.
ICML.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from tl_lightning.config.hints import at_least
from tl_lightning.losses.singular_values import numerical_rank, svd
from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Views

__all__ = ["RSD"]

#: Smallest squared sine of an angle that has a gradient: about ten times the rounding error of
#: float32. The derivative of the sine of the angle by its cosine is infinite at 0.
SMALLEST = 1e-6


class RSD(Penalty):
    """``sum_i sin(theta_i) + mismatch * ||abs(P_s) - abs(P_t)||_F``.

    ``theta_i`` are the principal angles between the subspaces that the features of the source's and
    the target's samples in a batch span, and ``P`` the coordinates of the principal vectors in the
    bases of left singular vectors of the features ``(D, B)``. Unlike distances between
    distributions, the angles do not change the scale of the features, which regression depends on.
    Features whose span has fewer dimensions than samples are compared in the dimensions of the
    smaller span. The gradient is bounded, see :func:`.svd`.

    Args:
        mismatch: Weight of the mismatch of the bases.
        kwargs: As in :class:`Penalty`.
    """

    tasks = TASKS
    compares_spans = True

    def __init__(self, *, mismatch: Annotated[float, at_least(0)], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mismatch = mismatch

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the distance for features ``(B_s, D)`` and ``(B_t, D)``; NaN if not finite."""
        both = [views[name].features for name in ("source", "target")]
        if not all(torch.isfinite(features).all() for features in both):
            return (both[0].sum() + both[1].sum()) * torch.nan
        parts = [svd(features) for features in both]
        rank = min(
            numerical_rank(values, features.shape)
            for features, (_, values, _) in zip(both, parts, strict=True)
        )
        if rank == 0:
            return (both[0].sum() + both[1].sum()) * 0.0
        source, target = (vectors[:rank] for _, _, vectors in parts)
        p_source, cosines, p_target = svd(source @ target.T)
        sines = (1 - cosines.square()).clamp(min=SMALLEST).sqrt()
        gap = torch.linalg.vector_norm(p_source.abs() - p_target.T.abs())
        ctx.log("mean_sine", sines.detach().mean())
        ctx.log("mismatch", gap.detach())
        total: Tensor = sines.sum() + self.mismatch * gap
        return total
