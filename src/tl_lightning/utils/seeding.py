"""One way to turn facts about a sample into a seed, the same on every machine and rank."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["mix", "mix_last", "mix_text"]

_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """Mix whole numbers into one 63-bit seed by splitmix64 steps.

    Unlike Python's ``hash`` the result is the same in every process, and unlike a sum it keeps
    (1, 2) and (2, 1) apart.

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
    """Return ``mix(*parts, n)`` for every ``n`` of ``last`` at once.

    >>> mix_last([7, -1], np.array([0, 5])).tolist() == [mix(7, -1, 0), mix(7, -1, 5)]
    True
    """
    state = np.uint64(0x9E3779B97F4A7C15)
    parts_of = [np.full(len(last), part & _MASK, dtype=np.uint64) for part in parts]
    # Arrays throughout: whole numbers of numpy would warn where arrays wrap around as meant.
    mixed = np.full(len(last), state)
    for part in (*parts_of, last.astype(np.uint64)):
        mixed = (mixed ^ part) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(1)).astype(np.int64)


def mix_text(text: str) -> int:
    """Return a 63-bit number for a text, for ordering files independently of the file system.

    >>> mix_text("a") == mix_text("a"), mix_text("a") == mix_text("b")
    (True, False)
    """
    encoded = text.encode(errors="surrogateescape")  # a file's name need not be UTF-8
    return int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big") >> 1
