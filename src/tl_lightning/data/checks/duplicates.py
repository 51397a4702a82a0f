"""Detection of duplicate images by content hash or visual similarity.

Candidates with similar perceptual hashes are confirmed on grayscale thumbnails, because hashes
alone match any two drawings on white paper and any two uniform images.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Place", "alike", "grouped", "judge", "same"]

#: Maximum number of differing bits (of 64) between the hashes of two copies of an image.
DISTANCE = 3
#: One band more than bits that may differ, so that at least one band of two copies is equal.
BANDS = DISTANCE + 1
#: Maximum mean absolute difference (of 255 gray levels) and minimum correlation of the thumbnails
#: of two copies. The worst of 240 photographs, paintings and sketches, halved and saved as JPEG of
#: quality 60, had 1.9 and 0.994; two different sketches of a guitar have 2.3 and 0.98.
DIFFERENCE = 4.0
CORRELATION = 0.99
#: Standard deviation in gray levels below which a thumbnail is considered uniform.
FLAT = 2.0

_BITS = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)


class Place(NamedTuple):
    """Domain, split and class of an image; few-shot target samples count as ``train``.

    The class is empty without a label.
    """

    domain: str
    split: str
    label: str


def same(keys: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return index pairs (first, later) of equal keys; empty keys are ignored.

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
    """Return the index pairs of visually identical images.

    Args:
        hashes: ``(N,)`` perceptual hashes.
        thumbnails: ``(N, P)`` gray pixels.
    """
    gray = thumbnails.astype(np.float32)
    centred = gray - gray.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).sum(axis=1))
    textured = np.flatnonzero(spread > FLAT * np.sqrt(gray.shape[1]))
    unit = centred / np.maximum(spread, 1e-6)[:, None]
    found: set[tuple[int, int]] = set()
    for left, right in _candidates(hashes, textured):
        near = _distance(hashes[left], hashes[right]) <= DISTANCE
        left, right = left[near], right[near]
        correlation = (unit[left] * unit[right]).sum(axis=1)
        difference = np.abs(gray[left] - gray[right]).mean(axis=1)
        confirmed = (correlation >= CORRELATION) & (difference <= DIFFERENCE)
        pairs = zip(left[confirmed].tolist(), right[confirmed].tolist(), strict=True)
        found.update((min(pair), max(pair)) for pair in pairs)
    return sorted(found)


def _candidates(
    hashes: NDArray[np.uint64], indices: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs with an equal band of bits, by comparing sorted keys at increasing lags."""
    width = 64 // BANDS
    for band in range(BANDS):
        keys = (hashes[indices] >> np.uint64(width * band)) & np.uint64((1 << width) - 1)
        order = np.argsort(keys, kind="stable")
        keys, members = keys[order], indices[order]
        active = np.arange(len(members))
        lag = 0
        while len(active):
            lag += 1
            active = active[active + lag < len(members)]
            # Keys are sorted, so a key that differs at this lag differs at all larger lags.
            active = active[keys[active] == keys[active + lag]]
            if len(active):
                yield members[active], members[active + lag]


def _distance(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    different = np.ascontiguousarray(left ^ right).view(np.uint16).reshape(-1, 4)
    distance: NDArray[np.int64] = _BITS[different].sum(axis=1, dtype=np.int64)
    return distance


def grouped(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the connected components of index pairs, each in ascending order.

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
    """Classify a group of files with the same image as one of ``PAIRS``.

    A single file may occur in two splits by design (a synthetic target is tested on the source's
    test images, a transductive target trains on its test images). Therefore only different files
    are compared with each other.

    Args:
        group: The places of each file.

    >>> train, test = Place("source", "train", "cat"), Place("source", "test", "cat")
    >>> judge([[train], [test]]), judge([[train], [train]])
    ('across_splits', 'within')
    """
    labels = (frozenset(place.label for place in places if place.label) for places in group)
    if len({known for known in labels if known}) > 1:
        return "two_classes"
    for domain in {place.domain for places in group for place in places}:
        splits_of_files = [
            frozenset(p.split for p in places if p.domain == domain) for places in group
        ]
        if len({splits for splits in splits_of_files if splits}) > 1:
            return "across_splits"
    if len({frozenset(place.domain for place in places) for places in group}) > 1:
        return "across_domains"
    return "within"
