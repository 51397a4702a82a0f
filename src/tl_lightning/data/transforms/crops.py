"""Crop, resize and flip of RGB images in one pass, by a compiled kernel with torch's results.

torch's uint8 kernel needs a contiguous copy of the crop, flipped if need be, and computes the
weights again for every image; both together take a third of its time. Its row pass handles one
pixel at a time. ``crops.c`` reads the crop where it is, and a flip is only another table of
weights. Tables are kept, as crops have a few hundred different widths and heights.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tl_lightning.config.schema import cache_root
from tl_lightning.utils.compiled import compiled

__all__ = ["Box", "resize_crops"]

#: Top, left, height and width of a crop in pixels.
Box = Sequence[int]
#: Maps the addresses of the crops, their number, the size and a buffer; see ``crops.c``.
Kernel = Callable[[int, int, int, int], None]

_LOAD, _STORE = 16, 32  # bytes
#: Largest reduction at which the pixels of four neighbouring outputs fit into one load.
_LARGEST = 3


class _Crop(NamedTuple):
    """A crop of ``image``, to be written into ``out``, ``(S, S, 3)``."""

    image: Tensor
    box: Box
    flip: bool
    out: Tensor


class _Taps(NamedTuple):
    """Weights of one axis.

    Attributes:
        first: ``(S,)`` first input pixel of each output pixel.
        number: ``(S,)`` number of input pixels.
        weights: ``(S, K)`` int16, K even; 0 from ``number`` on.
        precision: Number of fractional bits of the weights.
    """

    first: NDArray[np.int64]
    number: NDArray[np.int64]
    weights: NDArray[np.int16]
    precision: int


class _Axis:
    """A table of ``crops.c``, which reads it at ``address``."""

    def __init__(self, *arrays: NDArray[np.generic] | None, pairs: int, precision: int) -> None:
        self.arrays = [None if a is None else np.ascontiguousarray(a) for a in arrays]
        places = [0 if a is None else a.ctypes.data for a in self.arrays]
        self.fields = np.array([*places, pairs, precision], dtype=np.int64)
        self.address = self.fields.ctypes.data


def resize_crops(
    images: Sequence[Tensor], boxes: Sequence[Box], flips: Sequence[bool], out: Tensor, mode: str
) -> None:
    """Resize a crop of each image, and flip it horizontally.

    Args:
        images: Images ``(3, H, W)`` uint8.
        boxes: The crops.
        flips: Which crops are flipped.
        out: Written, ``(B, S, S, 3)`` uint8.
        mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
    """
    kernel = _kernel() if mode != "nearest" else None
    fast = []
    for parts in zip(images, boxes, flips, out, strict=True):
        crop = _Crop(*parts)
        if kernel and _supported(crop):
            fast.append(crop)
        else:
            _by_torch(crop, mode)
    if kernel and fast:
        _by_kernel(kernel, fast, mode)


def _by_torch(crop: _Crop, mode: str) -> None:
    top, left, height, width = crop.box
    window = crop.image.permute(1, 2, 0)[None, top : top + height, left : left + width]
    if crop.flip:
        window = window.flip(2)
    # Despite the copy, the uint8 kernel is twice as fast on contiguous channels-last data.
    window = window.contiguous().permute(0, 3, 1, 2)
    size, antialias = crop.out.shape[:2], mode != "nearest"
    resized_crop = functional.interpolate(window, size, mode=mode, antialias=antialias)[0]
    crop.out.copy_(resized_crop.permute(1, 2, 0))


def _supported(crop: _Crop) -> bool:
    """Return whether the kernel can resize a crop: RGB by pixel, neither tiny nor much larger."""
    image, size = crop.image, len(crop.out)
    by_pixel = image.dtype == torch.uint8 and image.shape[0] == 3 and image.stride()[::2] == (1, 3)
    fits = 3 * size >= _STORE and _LOAD <= 3 * crop.box[3] <= 3 * _LARGEST * size
    return by_pixel and fits and crop.out.is_contiguous()


def _by_kernel(kernel: Kernel, crops: Sequence[_Crop], mode: str) -> None:
    size, rows = len(crops[0].out), []
    # Kept until the kernel returns: other threads may remove tables from the caches meanwhile.
    axes: list[_Axis] = []
    for image, (top, left, height, width), flip, out in crops:
        stride = image.stride(1)
        source = image.data_ptr() + top * stride + 3 * left
        axes += [_row_axis(width, size, mode, flip), _column_axis(height, size, mode)]
        across, down = (axis.address for axis in axes[-2:])
        rows.append((source, stride, height, across, down, out.data_ptr()))
    table = np.array(rows, dtype=np.int64)
    highest = 4 * -(-int(table[:, 2].max()) // 4)
    lines = np.empty((highest, _STORE * -(-3 * size // _STORE)), dtype=np.uint8)
    kernel(table.ctypes.data, len(table), size, lines.ctypes.data)


@cache
def _kernel() -> Kernel | None:
    """Return the compiled kernel, or None if it does not compile or differs from torch here."""
    vectors = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    if platform.machine() not in ("x86_64", "AMD64") or not vectors or os.name != "posix":
        return None
    folder = cache_root() / f"cache-compiled-{os.getuid()}"
    library = compiled(Path(__file__).with_suffix(".c"), folder)
    if library is None:
        return None
    kernel = library.resize_crops
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    kernel.restype = None
    return kernel if _equals_torch(kernel) else None


def _equals_torch(kernel: Kernel) -> bool:
    """Return whether some crops are the same, as another version of torch may round differently."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    image = torch.from_numpy(noise).permute(2, 0, 1)
    sizes = ((80, 90), (61, 37), (32, 32), (17, 70), (9, 6))
    for mode in ("bilinear", "bicubic"):
        for index, (height, width) in enumerate(sizes):
            box = (80 - height, 90 - width, height, width)
            expected, found = torch.empty(2, 32, 32, 3, dtype=torch.uint8)
            crop = _Crop(image, box, index % 2 == 0, expected)
            _by_torch(crop, mode)
            _by_kernel(kernel, [crop._replace(out=found)], mode)
            if not torch.equal(expected, found):
                return False
    return True


@lru_cache(maxsize=2048)
def _row_axis(width: int, size: int, mode: str, flip: bool) -> _Axis:
    """Return the table of the row pass, for groups of four output bytes."""
    first, number, weights, precision = _taps(width, size, mode)
    pairs = weights.shape[1] // 2
    if flip:  # a mirrored pixel has the same weights in the opposite order
        first = width - first - number
        order = number[:, None] - 1 - np.arange(2 * pairs)
        weights = np.where(order < 0, 0, np.take_along_axis(weights, order.clip(0), axis=1))
    padded = np.arange(_STORE * -(-3 * size // _STORE)).clip(max=3 * size - 1).reshape(-1, 4)
    pixel, channel = padded // 3, padded % 3
    used = weights.reshape(size, pairs, 2)[pixel].swapaxes(1, 2)  # (groups, pairs, 4, 2)
    taps = first[pixel][:, None, :, None] + np.arange(2 * pairs).reshape(pairs, 1, 2)
    byte = 3 * taps + channel[:, None, :, None]
    # A load begins at its first byte with a weight, but must not reach beyond the row.
    last = 3 * width - _LOAD
    places = np.where(used != 0, byte, last).min(axis=(2, 3)).clip(max=last)
    shuffles = np.full((*used.shape, 2), 0x80, dtype=np.uint8)  # 0x80 stands for zero
    shuffles[..., 0] = np.where(used != 0, byte - places[..., None, None], 0x80)
    return _Axis(shuffles, used, places.astype(np.int32), pairs=pairs, precision=precision)


@lru_cache(maxsize=2048)
def _column_axis(height: int, size: int, mode: str) -> _Axis:
    """Return the table of the column pass."""
    first, _, weights, precision = _taps(height, size, mode)
    lines = (first[:, None] + np.arange(weights.shape[1])).clip(max=height - 1)
    pairs = weights.shape[1] // 2
    return _Axis(None, weights, lines.astype(np.int32), pairs=pairs, precision=precision)


@lru_cache(maxsize=2048)
def _taps(length: int, size: int, mode: str) -> _Taps:
    """Return torch's integer weights for resizing with antialiasing, as by Pillow."""
    scale = length / size
    stretch = max(scale, 1.0)
    support = stretch * (1 if mode == "bilinear" else 2)
    centre = scale * (np.arange(size) + 0.5)
    first = (centre - support + 0.5).astype(np.int64).clip(min=0)
    number = (centre + support + 0.5).astype(np.int64).clip(max=length) - first
    taps = np.arange(2 * -(-int(number.max()) // 2))
    distance = np.abs(taps + first[:, None] - centre[:, None] + 0.5) * (1 / stretch)
    exact = np.where(taps < number[:, None], _filter(distance, mode), 0.0)
    exact /= exact.cumsum(axis=1)[:, -1:]  # added in torch's order
    # The largest weight is used to the full 15 bits.
    enough = (p for p in range(22) if int(0.5 + exact.max() * 2 ** (p + 1)) >= 2**15)
    precision = next(enough, 22)
    scaled = exact * 2**precision
    weights = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int16)
    return _Taps(first, number, weights, precision)


def _filter(distance: NDArray[np.float64], mode: str) -> NDArray[np.float64]:
    x = distance
    if mode == "bilinear":
        return (1 - x).clip(min=0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
