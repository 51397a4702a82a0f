"""Random numbers that depend only on the seed of the sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tl_lightning.utils.seeding import mix

__all__ = ["uniforms"]


def uniforms(seeds: Sequence[int], count: int, salt: int = 0) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1), ``(N, count)``; row ``i`` depends only on ``seeds[i]``.

    Uses SplitMix64 as a counter-based generator (Steele, Lea and Flood, OOPSLA 2014). It has no
    state, so a sample gets the same numbers in any batch, worker or rank. A different ``salt``
    gives different numbers for the same seeds.

    >>> bool((uniforms([5, 6], 3)[1] == uniforms([6], 3)[0]).all())
    True
    """
    state = np.asarray(seeds, dtype=np.uint64)[:, None]
    if salt:
        state = state ^ np.uint64(mix(salt))
    steps = np.arange(1, count + 1, dtype=np.uint64)[None, :]
    with np.errstate(over="ignore"):
        x = state + steps * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    out: NDArray[np.float64] = (x >> np.uint64(11)) * 2.0**-53
    return out
