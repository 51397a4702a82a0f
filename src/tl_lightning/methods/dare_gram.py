"""DARE-GRAM: alignment of the inverse Gram matrices, for regression.

Nejjar, Wang, Fink (2023): DARE-GRAM: Unsupervised Domain Adaptation Regression by Aligning Inverse
Gram Matrices. CVPR, arXiv:2303.13325.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.config.hints import at_least, within
from tl_lightning.losses.singular_values import gram_pseudo_inverse, numerical_rank, singular_values
from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Views

__all__ = ["DareGram", "kept"]


def kept(eigenvalues: Tensor, threshold: float) -> int:
    """Return how many eigenvalues the pseudo-inverse is computed from, at least 1.

    They are those before the last one whose cumulative sum is at most ``threshold`` of the total,
    or at most the sum of the first two if that is more.

    Args:
        eigenvalues: At least two, in descending order.
        threshold: Fraction of the total.

    >>> kept(torch.tensor([6.0, 2.0, 1.0, 1.0]), 0.9), kept(torch.tensor([9.5, 0.4, 0.1]), 0.9)
    (2, 1)
    """
    fractions = eigenvalues.detach().cumsum(0) / eigenvalues.detach().sum()
    limit = fractions[1].clamp(min=threshold)
    return int((fractions <= limit).sum()) - 1


class DareGram(Penalty):
    """``angle * mean_j |1 - cos(G_s^+, G_t^+)_j| + scale * ||l_s - l_t||_2 / k``.

    The solution of least squares is ``(Z^T Z)^-1 Z^T y``, so that the inverse Gram matrix of the
    features is aligned rather than the features. ``G^+`` is the pseudo-inverse of the Gram matrix
    of the features with a column of ones, from its ``k`` largest eigenvalues ``l`` (see
    :func:`kept`; ``k`` is the larger one of both domains), and ``cos_j`` the cosine between the
    ``j``-th columns. Both Gram matrices are scaled to the number of samples of the source.

    Args:
        angle: Weight of the angles between the columns.
        scale: Weight of the differences between the eigenvalues.
        threshold: Fraction of the sum of the eigenvalues that chooses ``k``.
        kwargs: As in :class:`Penalty`.
    """

    tasks = TASKS
    smallest_batch = 2

    def __init__(
        self,
        *,
        angle: Annotated[float, at_least(0)],
        scale: Annotated[float, at_least(0)],
        threshold: Annotated[float, within(0, 1)],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.angle = angle
        self.scale = scale
        self.threshold = threshold

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the distance for features ``(B_s, D)`` and ``(B_t, D)``; NaN if not finite."""
        source, target = (
            functional.pad(views[name].features, (1, 0), value=1.0) for name in ("source", "target")
        )
        both = [source, target * (len(source) / len(target)) ** 0.5]
        eigenvalues = [singular_values(matrix).square() for matrix in both]
        if not all(torch.isfinite(values).all() for values in eigenvalues):
            return torch.cat(eigenvalues).sum() * torch.nan
        k = max(kept(values, self.threshold) for values in eigenvalues)
        of_source, of_target = (
            _inverse(matrix, values, k) for matrix, values in zip(both, eigenvalues, strict=True)
        )
        cosines = functional.cosine_similarity(of_source, of_target, dim=0, eps=1e-6)
        angle = (1 - cosines).abs().mean()
        fewer = min(k, *(len(values) for values in eigenvalues))
        gap = torch.linalg.vector_norm(eigenvalues[0][:fewer] - eigenvalues[1][:fewer]) / k
        ctx.log("kept", float(k))
        ctx.log("angle", angle.detach())
        ctx.log("scale", gap.detach())
        total: Tensor = self.angle * angle + self.scale * gap
        return total


def _inverse(matrix: Tensor, eigenvalues: Tensor, k: int) -> Tensor:
    """Return the pseudo-inverse with a largest eigenvalue of 1, which changes no cosine."""
    rank = min(k, numerical_rank(eigenvalues.detach().sqrt(), matrix.shape))
    smallest: Tensor = eigenvalues[rank - 1].detach()
    return gram_pseudo_inverse(matrix, rank) * smallest
