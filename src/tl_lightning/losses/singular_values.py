"""Singular values and vectors of batches, also if values are not finite, repeated or zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["gram_pseudo_inverse", "numerical_rank", "singular_values", "svd"]

#: Smallest relative difference of two squared singular values whose vectors are told apart.
_APART = 1e-3


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values in descending order; NaN if the matrix is not finite.

    torch raises an error for such a matrix. A loss of NaN reaches the check for losses that are not
    finite, which names the files of the batch.

    Args:
        matrix: ``(N, D)``.

    >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, float("inf")]])).tolist()
    [nan, nan]
    """
    if torch.isfinite(matrix).all():
        values: Tensor = torch.linalg.svdvals(matrix)
        return values
    return (matrix * torch.nan).sum().expand(min(matrix.shape))


def numerical_rank(values: Tensor, shape: torch.Size) -> int:
    """Return how many singular values of a matrix are above the rounding errors.

    Args:
        values: ``(min(N, D),)`` in descending order.
        shape: ``(N, D)``.

    >>> numerical_rank(torch.tensor([3.0, 1.0, 1e-9]), torch.Size((4, 3)))
    2
    """
    smallest = values[0] * max(shape) * torch.finfo(values.dtype).eps
    return int((values > smallest).sum())


class _SVD(torch.autograd.Function):
    """Thin singular value decomposition whose gradient is bounded.

    The exact gradient of the vectors contains ``1 / (s_j^2 - s_i^2)`` and ``1 / s_i``, which are
    infinite for equal and for zero singular values. ``1 / x`` is replaced by ``x / (x^2 + e^2)``,
    as by Liao, Liu, Wang, Xiang (2019): Differentiable Programming Tensor Networks. Physical
    Review X 9. Here ``e`` is relative to the two values that are compared, so that the gradient
    does not depend on the scale of the matrix.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        ctx.save_for_backward(u, s, vh)
        return u, s, vh

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        u, s, vh = ctx.saved_tensors
        du, ds, dvh = grads
        v, dv = vh.T, dvh.T
        squares, tiny = s.square(), torch.finfo(s.dtype).eps
        gaps = squares[None, :] - squares[:, None]
        # The second term is above zero even if both values are zero.
        smallest = _APART * (squares[None, :] + squares[:, None]) + tiny * squares[0] + tiny**2
        inverse_gaps = gaps / (gaps.square() + smallest.square())
        least = tiny * max(u.shape[0], v.shape[0]) * s[0] + tiny
        inverse = s / (s.square() + least.square())
        left, right = u.T @ du, v.T @ dv
        core = (inverse_gaps * (left - left.T)) * s[None, :]
        core = core + s[:, None] * (inverse_gaps * (right - right.T)) + torch.diag(ds)
        outside_u, outside_v = du - u @ left, dv - v @ right
        return (u @ core + outside_u * inverse) @ vh + (u * inverse) @ outside_v.T


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin decomposition ``U, s, V^T`` of a finite matrix, with a bounded gradient."""
    u, s, vh = _SVD.apply(matrix)
    return u, s, vh


class _GramPseudoInverse(torch.autograd.Function):
    """See :func:`gram_pseudo_inverse`."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, rank: int) -> Tensor:
        _, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        kept = vh[:rank]
        inverse: Tensor = (kept.T / s[:rank].square()) @ kept
        ctx.save_for_backward(matrix, kept, inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        matrix, kept, inverse = ctx.saved_tensors
        grad = 0.5 * (grads[0] + grads[0].T)
        # The terms of a symmetric matrix of constant rank: Golub and Pereyra (1973), SIAM Journal
        # on Numerical Analysis 10(2).
        outside = grad - (grad @ kept.T) @ kept
        mixed = inverse @ (inverse @ outside)
        of_gram = mixed + mixed.T - inverse @ grad @ inverse
        return 2 * matrix @ of_gram, None


def gram_pseudo_inverse(matrix: Tensor, rank: int) -> Tensor:
    """Return the pseudo-inverse ``(D, D)`` of ``A^T A`` from its ``rank`` largest eigenvalues.

    It is computed from the singular values of ``A``, which is more exact and, if ``N`` is smaller
    than ``D``, faster. The gradient is that of :func:`torch.linalg.pinv` with a tolerance: the
    remaining eigenvalues count as zero, so that it is bounded also if eigenvalues are equal.

    Args:
        matrix: ``A``, ``(N, D)``, finite.
        rank: Number of eigenvalues, none of which is zero.
    """
    inverse: Tensor = _GramPseudoInverse.apply(matrix, rank)
    return inverse
