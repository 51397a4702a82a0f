"""Confidence intervals: Student's t over seeds; Wilson's and Newcombe's for one test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

__all__ = ["CONFIDENCE", "Interval", "mcnemar", "newcombe", "student", "wilson"]

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its confidence interval, in the unit of the values.

    Attributes:
        mean: Arithmetic mean.
        std: Standard deviation with ddof 1; None for a single value.
        low: Lower end of the interval; None if there is none.
        high: Upper end of the interval; None if there is none.
        n: Number of values.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    n: int


def student(values: Sequence[float]) -> Interval:
    r"""Return the mean with its 95 % Student t interval.

    ``mean +- t_{0.975, n-1} s / sqrt(n)``. Identical values have no interval: seeds that do not
    change the result are not n independent trials.

    Args:
        values: One value (or paired difference) per seed; at least one.

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
    if std < 1e-12:  # rounding of equal differences, far below the effect of one image
        return Interval(mean, 0.0, None, None, len(data))
    half = float(stdtrit(len(data) - 1, 0.5 + CONFIDENCE / 2)) * std / math.sqrt(len(data))
    return Interval(mean, std, mean - half, mean + half, len(data))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a fraction: ``hits`` of ``n`` > 0 independent trials.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    >>> [round(end, 3) for end in wilson(50, 100)]
    [0.404, 0.596]
    """
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    fraction, scale = hits / n, 1 + z * z / n
    centre = (fraction + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe(both: int, first: int, second: int, neither: int) -> Interval:
    """Return the difference of two fractions of the same samples with its 95 % interval.

    Newcombe (1998), "Improved confidence intervals for the difference between binomial proportions
    based on paired data", Statistics in Medicine 17, method 10.

    Args:
        both: Number of samples that both classify correctly.
        first: Those that only the first does, whose fraction is the minuend.
        second: Those that only the second does.
        neither: The others.

    >>> found = newcombe(10, 1, 0, 9)
    >>> [round(100 * value, 1) for value in (found.mean, found.low, found.high)]
    [5.0, -7.8, 17.3]
    """
    n = both + first + second + neither
    fractions = [(both + first) / n, (both + second) / n]
    ends = [wilson(both + first, n), wilson(both + second, n)]
    low, high = ([abs(f - end[side]) for f, end in zip(fractions, ends, strict=True)]
                 for side in (0, 1))  # fmt: skip
    spread = (both + first) * (second + neither) * (both + second) * (first + neither)
    related = float(both * neither - first * second)
    related = max(related - n / 2, 0.0) if related > 0 else related
    phi = related / math.sqrt(spread) if spread else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(one * one - 2 * phi * one * other + other * other, 0.0))

    mean = fractions[0] - fractions[1]
    return Interval(mean, None, mean - reach(low[0], high[1]), mean + reach(high[0], low[1]), n)


def mcnemar(first: int, second: int) -> float:
    """Return the p-value of McNemar's exact test for two models on the same samples.

    If the models are equally good, a sample that only one of them classifies correctly is as likely
    to be the first's as the second's.

    Args:
        first: Number of samples that only the first classifies correctly.
        second: Those that only the second does.

    >>> mcnemar(0, 0), round(mcnemar(9, 1), 4)
    (1.0, 0.0215)
    """
    from scipy.stats import binomtest  # takes most of a second to import

    return float(binomtest(first, first + second).pvalue) if first + second else 1.0
