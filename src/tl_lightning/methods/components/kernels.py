"""Multi-width Gaussian kernels and the maximum mean discrepancy (MMD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gaussian_kernel", "mmd", "squared_distances"]


def squared_distances(x: Tensor) -> Tensor:
    """Return ``(N, N)`` squared Euclidean distances between the rows of ``(N, D)``, at least 0.

    Computed from differences: the faster ``|a|^2 + |b|^2 - 2ab`` is inaccurate for close pairs.

    >>> squared_distances(torch.tensor([[0.0], [3.0]])).tolist()
    [[0.0, 9.0], [9.0, 0.0]]
    """
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()


def gaussian_kernel(
    x: Tensor, multipliers: Sequence[float], bandwidth: float | None = None
) -> Tensor:
    """Return the mean of ``exp(-d^2 / (m s))`` over the multipliers ``m``, ``(N, N)``.

    Args:
        x: ``(N, D)``.
        multipliers: Multipliers ``m`` of the width.
        bandwidth: ``s``, or None for the mean squared distance between different rows, which is
            treated as a constant (no gradient flows through it).
    """
    distances = squared_distances(x)
    n = len(x)
    if bandwidth is None:
        width = distances.detach().sum() / max(1, n * n - n)
        width = width.clamp_min(1e-12)
    else:
        width = torch.as_tensor(bandwidth, dtype=x.dtype, device=x.device)
    return torch.stack([torch.exp(-distances / (m * width)) for m in multipliers]).mean(0)


def mmd(kernel: Tensor, n: int, unbiased: bool, weights: Tensor | None = None) -> Tensor:
    """Return the squared maximum mean discrepancy between the first ``n`` rows and the others.

    Gretton et al. (2012), JMLR 13, eqs. 3 (unbiased: excludes pairs of a sample with itself, so it
    can be negative) and 5 (biased).

    Args:
        kernel: ``(N, N)`` kernel matrix of both domains' samples.
        n: Number of source samples.
        unbiased: Whether to use the unbiased estimate.
        weights: Weights ``(n,)`` of the source samples, or None for 1.
    """
    if weights is not None:
        # A weighted mean over pairs is the mean over the pairs of repeated samples.
        pairs = torch.outer(weights, weights)
        pairs = pairs - torch.diag(pairs.diagonal()) if unbiased else pairs
        own = (pairs * kernel[:n, :n]).sum() / pairs.sum().clamp_min(1e-12)
        cross = (weights[:, None] * kernel[:n, n:]).sum() / (weights.sum() * (len(kernel) - n))
        return own + _mean(kernel[n:, n:], unbiased) - 2 * cross
    m = len(kernel) - n
    means = [_mean(block, unbiased) for block in (kernel[:n, :n], kernel[n:, n:])]
    return means[0] + means[1] - 2 * kernel[:n, n:].sum() / (n * m)


def _mean(block: Tensor, unbiased: bool) -> Tensor:
    """Return the mean over all pairs, or those of different samples."""
    size = len(block)
    if unbiased:
        return (block.sum() - block.diagonal().sum()) / (size * (size - 1))
    return block.sum() / (size * size)
