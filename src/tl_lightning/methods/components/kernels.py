"""Gaussian kernels of several widths over the samples of both domains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gaussian_kernel", "mmd", "squared_distances"]


def squared_distances(x: Tensor) -> Tensor:
    """Return ``(N, N)`` squared Euclidean distances of the rows of ``(N, D)``, never below 0.

    Differences are taken one by one: the quicker ``|a|^2 + |b|^2 - 2ab`` loses near pairs.

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
        multipliers: Of the width.
        bandwidth: ``s``, or None for the mean squared distance of two different rows, which counts
            as a constant (no gradient flows through it).
    """
    distances = squared_distances(x)
    n = len(x)
    if bandwidth is None:
        width = distances.detach().sum() / max(1, n * n - n)
        width = width.clamp_min(1e-12)
    else:
        width = torch.as_tensor(bandwidth, dtype=x.dtype, device=x.device)
    return torch.stack([torch.exp(-distances / (m * width)) for m in multipliers]).mean(0)


def mmd(kernel: Tensor, n: int, unbiased: bool) -> Tensor:
    """Return the squared maximum mean discrepancy of the first ``n`` rows from the others.

    Gretton et al. (2012), JMLR 13, eqs. 3 (unbiased: no sample is paired with itself, so it may
    fall below 0) and 5 (biased).

    Args:
        kernel: ``(N, N)`` of both domains' samples.
        n: How many of them are of the source.
        unbiased: Which estimate.
    """
    m = len(kernel) - n
    parts = []
    for block in (kernel[:n, :n], kernel[n:, n:]):
        size = len(block)
        if unbiased:
            parts.append((block.sum() - block.diagonal().sum()) / (size * (size - 1)))
        else:
            parts.append(block.sum() / (size * size))
    return parts[0] + parts[1] - 2 * kernel[:n, n:].sum() / (n * m)
