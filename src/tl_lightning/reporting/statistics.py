"""How sure a figure is: Student's t over paired seeds, Wilson's interval over pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

__all__ = ["CONFIDENCE", "Interval", "student", "wilson"]

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean and how far it may be off, in the unit of the values.

    Attributes:
        mean: Arithmetic mean.
        std: Standard deviation with ddof 1; None for a single value.
        low: Lower end of the interval of the mean; None without one.
        high: Upper end.
        n: Number of values.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    n: int


def student(values: Sequence[float]) -> Interval:
    r"""Return the mean with its 95 % Student t interval.

    ``mean +- t_{0.975, n-1} s / sqrt(n)``. Values that do not vary have no interval: seeds that
    change nothing are not n independent trials.

    Args:
        values: One value a seed (for paired differences: one difference a seed); at least one.

    >>> round(student([0.1, 0.2, 0.3]).low, 4)
    -0.0484
    >>> student([0.5]).low is None
    True
    """
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean, None, None, None, 1)
    std = float(data.std(ddof=1))
    if std < 1e-12:  # rounding of equal differences, far below one picture
        return Interval(mean, 0.0, None, None, len(data))
    half = float(stdtrit(len(data) - 1, 0.5 + CONFIDENCE / 2)) * std / math.sqrt(len(data))
    return Interval(mean, std, mean - half, mean + half, len(data))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of ``hits`` in ``n`` > 0 independent trials.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    >>> [round(end, 3) for end in wilson(50, 100)]
    [0.404, 0.596]
    """
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    share, scale = hits / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
