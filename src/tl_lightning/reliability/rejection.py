"""Thresholds of a score by which samples of no class are recognised; no labels of them are used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEPT", "otsu", "source_threshold"]

Array = NDArray[Any]

#: Fraction of source validation below the threshold of :func:`source_threshold`.
KEPT = 0.95


def otsu(scores: Array) -> float:
    """Return the threshold that divides scores ``(n,)`` into two groups of least variance.

    Otsu (1979), IEEE Transactions on Systems, Man, and Cybernetics 9(1): the same as the exact
    solution of k-means with two centres, by which SHOT recognises unknown classes. It lies midway
    between the groups. There are always two groups, also without any unknown sample.

    >>> otsu(np.array([0.1, 0.2, 0.1, 0.8, 0.9]))
    0.5
    """
    ordered = np.sort(np.asarray(scores, np.float64)[np.isfinite(scores)])
    number = np.arange(1, len(ordered))
    if not len(number) or ordered[0] == ordered[-1]:
        return float("inf")
    total = ordered.cumsum()
    low = total[:-1] / number
    high = (total[-1] - total[:-1]) / (len(ordered) - number)
    between = number * (len(ordered) - number) * (high - low) ** 2
    # Equal scores cannot be divided.
    between[ordered[1:] == ordered[:-1]] = -1.0
    best = int(between.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2)


def source_threshold(scores: Array) -> float:
    """Return the score below which :data:`KEPT` of source validation lies.

    >>> round(source_threshold(np.linspace(0, 1, 101)), 2)
    0.95
    """
    finite = np.asarray(scores, np.float64)[np.isfinite(scores)]
    return float(np.quantile(finite, KEPT)) if len(finite) else float("inf")
