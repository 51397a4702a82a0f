"""Pictures that are one and the same: by their bytes, or by how they look.

Looking alike is claimed by a perceptual hash and confirmed on gray thumbnails: hashes alone call
every two drawings on white paper, or every two flat pictures, the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Place", "alike", "grouped", "judge", "same"]

#: Bits of 64 in which the hashes of two copies of one picture may differ.
DISTANCE = 3
#: More bands than bits that may differ: two such hashes agree in at least one band entirely.
BANDS = DISTANCE + 1
#: Thumbnails of two copies: mean absolute difference in gray levels of 255, and correlation. Of
#: 240 photographs, paintings and sketches, halved and written again as JPEG of quality 60, the
#: worst had 1.9 and 0.994; two sketches of one guitar have 2.3 and 0.98.
DIFFERENCE = 4.0
CORRELATION = 0.99
#: Standard deviation in gray levels below which a thumbnail says nothing.
FLAT = 2.0

_BITS = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)


class Place(NamedTuple):
    """Where a picture stands; ``labelled`` target pictures train and count as ``train``."""

    role: str
    split: str
    label: str


def same(keys: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return pairs (first, later) of equal keys; empty keys equal none.

    >>> same([b"a", b"b", b"a", b"", b"", b"a"])
    [(0, 2), (0, 5)]
    """
    first: dict[Hashable, int] = {}
    pairs = []
    for index, key in enumerate(keys):
        if key and first.setdefault(key, index) != index:
            pairs.append((first[key], index))
    return pairs


def alike(hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return the pairs of pictures that look the same, each once.

    Args:
        hashes: ``(N,)`` perceptual hashes.
        thumbnails: ``(N, P)`` gray pixels.
    """
    gray = thumbnails.astype(np.float32)
    centred = gray - gray.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).sum(axis=1))
    telling = np.flatnonzero(spread > FLAT * np.sqrt(gray.shape[1]))
    unit = centred / np.maximum(spread, 1e-6)[:, None]
    found: set[tuple[int, int]] = set()
    for left, right in _candidates(hashes, telling):
        near = _distance(hashes[left], hashes[right]) <= DISTANCE
        left, right = left[near], right[near]
        correlation = (unit[left] * unit[right]).sum(axis=1)
        difference = np.abs(gray[left] - gray[right]).mean(axis=1)
        sure = (correlation >= CORRELATION) & (difference <= DIFFERENCE)
        pairs = zip(left[sure].tolist(), right[sure].tolist(), strict=True)
        found.update((min(pair), max(pair)) for pair in pairs)
    return sorted(found)


def _candidates(
    hashes: NDArray[np.uint64], chosen: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs that agree in a band of bits: neighbours once sorted, then those one further."""
    width = 64 // BANDS
    for band in range(BANDS):
        keys = (hashes[chosen] >> np.uint64(width * band)) & np.uint64((1 << width) - 1)
        order = np.argsort(keys, kind="stable")
        keys, members = keys[order], chosen[order]
        alive = np.arange(len(members))
        lag = 0
        while len(alive):
            lag += 1
            alive = alive[alive + lag < len(members)]
            # Sorted: whoever differs from its neighbour differs from all that follow.
            alive = alive[keys[alive] == keys[alive + lag]]
            if len(alive):
                yield members[alive], members[alive + lag]


def _distance(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    different = np.ascontiguousarray(left ^ right).view(np.uint16).reshape(-1, 4)
    distance: NDArray[np.int64] = _BITS[different].sum(axis=1, dtype=np.int64)
    return distance


def grouped(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the groups that pairs join together, each ascending.

    >>> grouped([(3, 1), (1, 7), (4, 5)])
    [[1, 3, 7], [4, 5]]
    """
    parent: dict[int, int] = {}

    def root(item: int) -> int:
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for left, right in pairs:
        parent[root(left)] = root(right)
    groups: dict[int, list[int]] = {}
    for item in sorted(parent):
        groups.setdefault(root(item), []).append(item)
    return sorted(groups.values())


def judge(group: Sequence[Sequence[Place]]) -> str:
    """Return which of ``PAIRS`` a group of distinct files that hold one picture is.

    One file may stand in two places by design (the test pictures of a synthetic target are the
    source's, a transductive target trains on what it is tested on). So files are compared with each
    other, never a file with itself.

    Args:
        group: The places of every file.

    >>> train, test = Place("source", "train", "cat"), Place("source", "test", "cat")
    >>> judge([[train], [test]]), judge([[train], [train]])
    ('across_splits', 'within')
    """
    if len({frozenset(place.label for place in places) for places in group}) > 1:
        return "two_classes"
    for role in {place.role for places in group for place in places}:
        own = [frozenset(p.split for p in places if p.role == role) for places in group]
        if len({splits for splits in own if splits}) > 1:
            return "across_splits"
    if len({frozenset(place.role for place in places) for places in group}) > 1:
        return "across_domains"
    return "within"
