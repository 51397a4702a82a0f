"""Crops by the compiled kernel: the bits of torch, within the image, and torch without it."""

from __future__ import annotations

import shutil
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tl_lightning.data.transforms import crops
from tl_lightning.data.transforms.crops import resize_crops

RNG = np.random.default_rng(0)


@pytest.fixture
def kernel():
    vectors = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    if shutil.which("cc") is None or not vectors:
        pytest.skip("needs a C compiler and AVX2")
    found = crops._kernel()
    assert found is not None
    return found


@pytest.fixture
def uncached():
    crops._kernel.cache_clear()
    yield
    crops._kernel.cache_clear()


def image(height: int, width: int) -> torch.Tensor:
    """Return noise or black and white, whose sums are the largest."""
    levels = 256 if RNG.random() < 0.5 else 2
    pixels = RNG.integers(0, levels, (height, width, 3), dtype=np.uint8) * (255 // (levels - 1))
    return torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1)


def by_torch(pixels, box, flip, size, mode):
    top, left, height, width = box
    window = pixels[None, :, top : top + height, left : left + width]
    window = (window.flip(-1) if flip else window).contiguous(memory_format=torch.channels_last)
    antialias = mode != "nearest"
    result = functional.interpolate(window, (size, size), mode=mode, antialias=antialias)
    return result[0].permute(1, 2, 0)


def check(images, boxes, flips, size, mode) -> None:
    out = torch.full((len(images), size, size, 3), 77, dtype=torch.uint8)
    resize_crops(images, boxes, flips, out, mode)
    for found, *given in zip(out, images, boxes, flips, strict=True):
        assert torch.equal(found, by_torch(*given, size, mode)), given[1:]


def test_tables_are_kept_until_the_kernel_returns(kernel, monkeypatch) -> None:
    """With more widths and heights than the caches hold, or other threads that fill them."""
    for name in ("_row_axis", "_column_axis"):
        monkeypatch.setattr(crops, name, lru_cache(maxsize=1)(getattr(crops, name).__wrapped__))
    monkeypatch.setattr(crops, "_by_torch", lambda *_: pytest.fail("not by the kernel"))
    one = image(300, 90)
    boxes = [[0, 0, 300 - k, 90 - k // 4] for k in range(280)]
    check([one] * 280, boxes, [False] * 280, 32, "bilinear")


def random_box(height: int, width: int, least: int, most: int) -> list[int]:
    h, w = int(RNG.integers(1, height + 1)), int(RNG.integers(least, min(width, most) + 1))
    return [int(RNG.integers(height - h + 1)), int(RNG.integers(width - w + 1)), h, w]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [11, 32, 37, 224])
def test_kernel_has_the_bits_of_torch(kernel, mode, size, monkeypatch) -> None:
    monkeypatch.setattr(crops, "_by_torch", lambda *_: pytest.fail("not by the kernel"))
    for _ in range(12):
        sizes = [(int(RNG.integers(1, 400)), int(RNG.integers(6, 400))) for _ in range(4)]
        boxes = [random_box(*pair, 6, 3 * size) for pair in sizes]
        check([image(*pair) for pair in sizes], boxes, RNG.random(4) < 0.5, size, mode)


def test_kernel_takes_all_widths(kernel) -> None:
    for width in range(6, 97):
        check([image(40, width)] * 2, [[0, 0, 40, width]] * 2, [False, True], 32, "bilinear")


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_kernel_reads_only_the_crop(mode) -> None:
    """The last row of the last image ends where the mapped file ends."""
    for width in range(6, 97):
        for flip in (False, True):
            shuffles, _, places = crops._row_axis(width, 32, mode, flip).arrays
            assert places.min() >= 0
            assert places.max() + 16 <= 3 * width
            assert (shuffles[shuffles != 0x80] < 16).all()
    for height in range(1, 200):
        _, _, lines = crops._column_axis(height, 32, mode).arrays
        assert lines.min() >= 0
        assert lines.max() < height


def test_other_crops_are_resized_by_torch_in_the_same_batch() -> None:
    usual, planar = image(50, 120), image(50, 120).contiguous()
    tiny, large = [0, 0, 50, 5], [0, 0, 50, 100]
    boxes = [[5, 6, 30, 40], tiny, large, [1, 2, 30, 40], [3, 4, 20, 30]]
    images = [usual, usual, usual, planar, usual]
    check(images, boxes, [True, True, False, True, False], 32, "bilinear")
    check(images, boxes, [True, True, False, True, False], 32, "nearest")
    check(images, boxes, [True, True, False, True, False], 8, "bicubic")


def test_results_are_the_same_without_a_compiler(uncached, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("TL_CACHE", str(tmp_path))
    assert crops._kernel() is None
    check([image(50, 60)] * 2, [[1, 2, 30, 40]] * 2, [True, False], 32, "bilinear")


def test_a_kernel_that_differs_from_torch_is_not_used(kernel, uncached, monkeypatch) -> None:
    def darker(table, count, size, lines) -> None:
        kernel(table, count, size, lines)
        target = np.ctypeslib.as_array((crops.ctypes.c_int64 * 6).from_address(table))[5]
        crops.ctypes.c_uint8.from_address(int(target)).value ^= 1

    monkeypatch.setattr(crops, "compiled", lambda *_: SimpleNamespace(resize_crops=darker))
    assert crops._kernel() is None
