"""Conversion of decoded images to 8-bit RGB: deep images, transparency and constant images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["FLAT", "LARGE", "is_deep", "is_flat", "rgb", "to_8_bits"]

#: Number of pixels above which images are reduced, to bound the memory of what follows.
LARGE = 1 << 24
#: Largest difference of the values of a channel (of 255) in an image called constant.
FLAT = 16


def is_deep(image: Image.Image) -> bool:
    """Return whether an opened image has grey values of more than 8 bits.

    Pillow decodes colours of 16 bits to their upper 8; they are not deep in this sense.
    """
    return image.mode.startswith("I") or image.mode == "F"


def to_8_bits(values: NDArray[np.generic], white: float | None) -> NDArray[np.uint8]:
    """Scale the values of a deep image so that ``white`` becomes 255.

    Args:
        values: Of any shape; smaller than 0 and not finite are 0, larger than ``white`` are 255.
        white: None: 65535 for integers, unless none is above 255, and 255 for other numbers.

    >>> to_8_bits(np.array([0, 2048, 4095, 9999]), 4095), to_8_bits(np.array([0.5, np.nan]), 1.0)
    (array([  0, 128, 255, 255], dtype=uint8), array([128,   0], dtype=uint8))
    """
    if values.dtype.kind == "f":
        finite = np.nan_to_num(values.astype(np.float64)).clip(0, 2.0**62)
        scaled: NDArray[np.uint8] = (
            np.rint(finite * (255.0 / (white or 255.0))).clip(0, 255).astype(np.uint8)
        )
        return scaled
    whole = values.astype(np.int64)
    white = white or (65535.0 if whole.max() > 255 else 255.0)
    # Equal shares for all 256 levels; for 16 bits, these are the upper 8.
    return _levels(whole.clip(0, int(white)) * (256.0 / (white + 1)))


def _levels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    rounded_down: NDArray[np.uint8] = values.clip(0, 255).astype(np.uint8)
    return rounded_down


def rgb(image: Image.Image, white: float | None) -> tuple[NDArray[np.uint8], bool]:
    """Return the pixels ``(H, W, 3)`` of an opened image, and whether it was transparent.

    Transparent pixels are shown on white, as by most viewers.

    Args:
        image: The image; it is decoded here.
        white: See :func:`to_8_bits`.
    """
    transparent = False
    if is_deep(image):
        image = Image.fromarray(_scaled(np.asarray(image), white))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = _reduced(image.convert("RGBA"))
        alpha = image.getchannel("A")
        if np.asarray(alpha).min() < 255:
            page = Image.new("RGB", image.size, "white")
            page.paste(image, mask=alpha)
            image, transparent = page, True
    image = _reduced(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), transparent


def _scaled(values: NDArray[np.generic], white: float | None) -> NDArray[np.uint8]:
    """Return :func:`to_8_bits` of an image, which takes several bytes per value, in parts."""
    if white is None and values.dtype.kind != "f":
        white = 65535.0 if values.max() > 255 else 255.0
    rows = max(1, (1 << 20) // values.shape[1])
    parts = (values[start : start + rows] for start in range(0, len(values), rows))
    return np.concatenate([to_8_bits(part, white) for part in parts])


def _reduced(image: Image.Image) -> Image.Image:
    """Return an image of at most ``LARGE`` pixels, averaged over squares of the given one."""
    factor = math.ceil(math.sqrt(image.width * image.height / LARGE))
    return image.reduce(factor) if factor > 1 else image


def is_flat(pixels: NDArray[np.uint8]) -> bool:
    """Return whether an image ``(H, W, 3)`` is constant or nearly so, see ``FLAT``."""
    # Most images differ in a few of their pixels.
    return all(int(np.ptp(part, axis=(0, 1)).max()) <= FLAT for part in (pixels[::8, ::8], pixels))
