"""Singular values of batches that may not be finite."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["singular_values"]


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
