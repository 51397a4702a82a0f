"""Deterministic seeds derived from integers and strings, the same on every machine and rank."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["mix", "mix_last", "mix_text"]

_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """Mix integers into one 63-bit seed by splitmix64 steps.

    Unlike Python's ``hash``, the result is the same in every process; unlike a sum, it depends on
    the order of the arguments.

    >>> mix(0, 1, 2) == mix(0, 1, 2), mix(1, 2) == mix(2, 1)
    (True, False)
    """
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ (part & _MASK)) & _MASK
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def mix_last(parts: Sequence[int], last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vectorised ``mix(*parts, n)`` for every ``n`` in ``last``.

    >>> mix_last([7, -1], np.array([0, 5])).tolist() == [mix(7, -1, 0), mix(7, -1, 5)]
    True
    """
    state = np.uint64(0x9E3779B97F4A7C15)
    prefix = [np.full(len(last), part & _MASK, dtype=np.uint64) for part in parts]
    # Arrays throughout: numpy scalars would warn about the intended overflow, arrays do not.
    mixed = np.full(len(last), state)
    for part in (*prefix, last.astype(np.uint64)):
        mixed = (mixed ^ part) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(1)).astype(np.int64)


def mix_text(text: str) -> int:
    """Hash a string to a 63-bit integer, e.g. to order files independently of the file system.

    >>> mix_text("a") == mix_text("a"), mix_text("a") == mix_text("b")
    (True, False)
    """
    encoded = text.encode(errors="surrogateescape")  # file names need not be UTF-8
    return int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big") >> 1
