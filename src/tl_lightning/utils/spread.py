"""Indices spread evenly over a range."""

from __future__ import annotations

import numpy as np

__all__ = ["spread"]


def spread(size: int, count: int) -> list[int]:
    """Return at most ``count`` indices spread evenly over ``range(size)``.

    >>> spread(10, 4), spread(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    indices = np.linspace(0, size - 1, min(count, size)).round()
    return [int(index) for index in np.unique(indices)]
