"""Duplicates: re-encoded copies are found, images that are merely similar are not."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tl_lightning.data.checks.duplicates import Place, alike, grouped, judge, same
from tl_lightning.data.checks.files import examine


def visual_duplicates(paths):
    findings = [examine(path) for path in paths]
    hashes = np.array([f.phash for f in findings], dtype=np.uint64)
    thumbnails = np.frombuffer(b"".join(f.thumbnail for f in findings), np.uint8)
    return alike(hashes, thumbnails.reshape(len(findings), -1))


def smooth(seed: int, size: int = 200) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def test_reencoded_and_resized_copies_are_found(tmp_path):
    first = smooth(0)
    first.save(tmp_path / "0.png")
    first.save(tmp_path / "1.jpg", quality=40)
    first.resize((90, 90)).save(tmp_path / "2.jpg", quality=80)
    smooth(1).save(tmp_path / "3.png")
    assert visual_duplicates(sorted(tmp_path.iterdir())) == [(0, 1), (0, 2), (1, 2)]


def test_sketches_on_white_and_uniform_images_are_not_duplicates(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(40):
        page = Image.new("RGB", (160, 160), "white")
        points = [tuple(point) for point in rng.integers(30, 130, (5, 2)).tolist()]
        ImageDraw.Draw(page).line(points, fill="black", width=2)
        page.save(tmp_path / f"sketch_{index}.png")
        Image.new("RGB", (160, 160), (index, 255 - index, 9)).save(tmp_path / f"flat_{index}.png")
    assert visual_duplicates(sorted(tmp_path.iterdir())) == []


def test_exactly_the_pairs_within_three_bits_are_found():
    rng = np.random.default_rng(0)
    base = int(rng.integers(0, 2**63))
    flips = [0, *(sum(1 << int(b) for b in rng.choice(64, n, replace=False)) for n in range(1, 7))]
    hashes = np.array([base ^ flip for flip in flips], dtype=np.uint64)
    thumbnail = rng.integers(0, 256, 256, dtype=np.uint8)
    expected = [
        (i, j)
        for i, j in itertools.combinations(range(len(flips)), 2)
        if bin(flips[i] ^ flips[j]).count("1") <= 3
    ]
    assert alike(hashes, np.stack([thumbnail] * len(flips))) == expected
    for bits in itertools.combinations(range(0, 64, 9), 3):
        other = base ^ sum(1 << bit for bit in bits)
        pair = np.array([base, other], dtype=np.uint64)
        assert alike(pair, np.stack([thumbnail] * 2)) == [(0, 1)]


def test_equal_hashes_with_different_pixels_are_not_duplicates():
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (2, 256), dtype=np.uint8)
    assert alike(np.zeros(2, np.uint64), thumbnails) == []


@pytest.mark.slow
def test_twenty_thousand_hashes_take_seconds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 20_000, dtype=np.uint64)
    hashes[:3000] = hashes[0]  # as for many drawings on white paper
    thumbnails = rng.integers(0, 256, (20_000, 256), dtype=np.uint8)
    thumbnails[19_999] = thumbnails[5000]
    hashes[19_999] = hashes[5000]
    started = time.monotonic()
    assert alike(hashes, thumbnails) == [(5000, 19_999)]
    assert time.monotonic() - started < 60


def places(*texts: str) -> list[Place]:
    return [Place(*text.split("/")) for text in texts]


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ([["source/train/cat"], ["source/train/dog"]], "two_classes"),
        ([["source/train/cat"], ["target/train/dog"]], "two_classes"),
        ([["source/train/cat"], ["source/val/cat"]], "across_splits"),
        ([["source/train/cat"], ["target/test/cat"]], "across_domains"),
        ([["target/train/cat"], ["target/train/cat"]], "within"),
        # A synthetic target is tested on the source's test images, by design.
        ([["source/test/cat", "target/test/cat"]] * 2, "within"),
        ([["source/train/cat"], ["source/test/cat", "target/test/cat"]], "across_splits"),
        # A transductive target trains on its test images, by design.
        ([["target/train/cat", "target/test/cat"]] * 2, "within"),
        # But labelled target samples must not be tested on.
        ([["target/train/cat"], ["target/train/cat", "target/test/cat"]], "across_splits"),
        ([["source/train/cat"], ["target/train/cat", "target/test/cat"]], "across_domains"),
    ],
)  # fmt: skip
def test_kind_of_a_group_of_duplicates(group, kind):
    assert judge([places(*texts) for texts in group]) == kind


def test_pairs_are_joined_to_groups():
    assert same(["a", "b", "a", "", ""]) == [(0, 2)]
    assert grouped([(0, 2), (2, 5), (7, 6)]) == [[0, 2, 5], [6, 7]]
    assert grouped([]) == []
