"""Image decoding and resizing, shared by training, caching and data checks."""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import get_worker_info

from tl_lightning.data.io.metadata import orientation_of, upright, without_metadata
from tl_lightning.data.io.pixels import LARGE, rgb
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec
from tl_lightning.utils.console import say
from tl_lightning.utils.files import UNREACHABLE

__all__ = [
    "FORMATS",
    "UNREADABLE",
    "Decoded",
    "decode",
    "fitted",
    "open_bytes",
    "open_image",
    "resized",
    "shorter_side",
]

#: Formats that may be decoded, so that a file cannot choose another decoder of Pillow's.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
#: Largest size of an image file. Pillow's limit of pixels is 178,956,970.
MAX_BYTES = 10**9
#: Exceptions that decoders raise for corrupt or truncated files. The list is so broad that it
#: would hide bugs, so a ``try`` with it must contain nothing but decoding.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, AttributeError, LookupError),
    *(ArithmeticError, MemoryError, RuntimeError, AssertionError, struct.error, zlib.error),
    Image.DecompressionBombError,
)


def open_image(path: Path, shorter: int | None = None, white: float | None = None) -> Tensor:
    """Decode an image to RGB ``(3, H, W)`` uint8 and apply its EXIF orientation.

    Transparent pixels are shown on white; only the first frame of an animation is used. Images of
    more than 16 million pixels are decoded at 1/2, 1/3, ... of their size, to bound the memory.

    Args:
        path: The file.
        shorter: Shorter side that the image will be resized to, or None. JPEGs more than twice
            as large are decoded at 1/2, 1/4 or 1/8 of their size, but not below twice this side.
        white: Value that becomes 255 in images of more than 8 bits, see :func:`.to_8_bits`.

    Raises:
        DataError: If the file is missing or cannot be decoded; names it.
    """
    try:
        pixels = _open(path, shorter, white, path)
    except FileNotFoundError as error:
        raise DataError(f"image {path} has disappeared since the run started") from error
    except UNREADABLE as error:
        reason = _reason(error)
        if isinstance(error, OSError) and error.errno in UNREACHABLE:
            raise DataError(
                f"cannot read image {path}: {error.strerror}; check that its disk or mount is "
                "available, then set resume=auto to continue"
            ) from error
        raise DataError(
            f"cannot read image {path}: {reason}; fix or remove the file and restart the run, or "
            "set data.on_error=skip to leave out unreadable files"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def open_bytes(content: bytes, where: str, shorter: int | None = None) -> Tensor:
    """Decode an image from memory; see :func:`open_image`.

    Args:
        content: Encoded image.
        where: Its name in error messages.
        shorter: As in :func:`open_image`.

    Raises:
        DataError: If it cannot be decoded.
    """
    try:
        pixels = _open(io.BytesIO(content), shorter, None, where)
    except UNREADABLE as error:
        reason = _reason(error)
        raise DataError(
            f"cannot read image {where}: {reason}; write the shards again without it "
            "(scripts/check_data.py finds unreadable files)"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, upright; a view.
        size: Width and height of the upright image in the file.
        transparent: Whether the file has transparent pixels.
        orientation: EXIF orientation in the file, 1 to 8.
        problem: Why the file's metadata could not be read; empty if they could.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    transparent: bool
    orientation: int
    problem: str = ""


def decode(
    source: Path | BinaryIO, shorter: int | None = None, white: float | None = None
) -> Decoded:
    """Decode an image file; see :func:`open_image`.

    Raises one of ``UNREADABLE`` if the pixels cannot be decoded. Metadata that cannot be read are
    ignored.
    """
    try:
        _check_bytes(source)
        with Image.open(source, formats=FORMATS) as image:
            size = image.size
            pixels, transparent = _pixels(image, shorter, white)
            orientation, problem = _orientation(image.getexif)
    except (Image.DecompressionBombError, FileNotFoundError):
        raise
    except UNREADABLE as error:
        found = without_metadata(_content(source))
        if found is None:
            raise
        try:
            with Image.open(io.BytesIO(found[0]), formats=FORMATS) as image:
                size = image.size
                pixels, transparent = _pixels(image, shorter, white)
        except UNREADABLE:
            raise error from None
        orientation, problem = _orientation(lambda: found[1])[0], _reason(error)
    size = size if orientation < 5 else size[::-1]
    return Decoded(upright(pixels, orientation), size, transparent, orientation, problem)


def _check_bytes(source: Path | BinaryIO) -> None:
    """Raise DecompressionBombError for a file that some decoders would read as a whole."""
    size = source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        raise Image.DecompressionBombError(
            f"file of {size / 1e9:.1f} GB exceeds the limit of {MAX_BYTES / 1e9:.0f} GB"
        )


def _content(source: Path | BinaryIO) -> bytes:
    if isinstance(source, Path):
        return source.read_bytes()
    source.seek(0)
    return source.read()


def _orientation(exif: Callable[[], Image.Exif]) -> tuple[int, str]:
    try:
        return orientation_of(exif()), ""
    except UNREADABLE as error:
        return 1, _reason(error)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _open(
    source: Path | BinaryIO, shorter: int | None, white: float | None, where: object
) -> NDArray[np.uint8]:
    found = decode(source, shorter, white)
    if found.problem:
        _tell_metadata(where, found.problem)
    return np.array(found.pixels, order="C")  # a copy, as the buffer of Pillow is read-only


@cache
def _told() -> set[str]:
    return set()


def _tell_metadata(where: object, problem: str) -> None:
    """Print once per process that the metadata of some images cannot be read."""
    worker = get_worker_info()
    if not _told() and (worker is None or worker.id == 0):
        say(
            f"note: the metadata (EXIF, colour profile or text) of image {where} cannot be read "
            f"({problem}); such metadata are ignored, scripts/check_data.py lists all such files"
        )
        _told().add(problem)


def _pixels(
    image: Image.Image, shorter: int | None, white: float | None
) -> tuple[NDArray[np.uint8], bool]:
    """Return the pixels ``(H, W, 3)`` of an opened image as they are stored."""
    if image.format == "JPEG":
        _draft(image, shorter)
    return rgb(image, white)


def _draft(image: Image.Image, shorter: int | None) -> None:
    """Let the decoder of a JPEG return 1/2, 1/4 or 1/8 of its size, if that is enough."""
    width, height = image.size
    large = 2 ** math.ceil(math.log2(max(1.0, width * height / LARGE)) / 2)
    if shorter is not None and min(image.size) // (2 * shorter) >= large:
        # The decoder picks its smallest scale with both sides at least this large.
        image.draft("RGB", (2 * shorter, 2 * shorter))
    elif large > 1:
        image.draft("RGB", (max(1, width // large), max(1, height // large)))


def shorter_side(spec: InputSpec) -> int:
    """Return the length that evaluation resizes an image's shorter side to."""
    return round(spec.size / spec.crop_pct)


def fitted(image: Tensor, shorter: int, spec: InputSpec) -> Tensor:
    """Shrink an image ``(3, H, W)`` so that its shorter side is ``shorter``; never enlarge it."""
    if min(image.shape[-2:]) <= shorter:
        return image
    return resized(image, shorter, spec)


def resized(image: Tensor, shorter: int, spec: InputSpec) -> Tensor:
    """Resize an image ``(3, H, W)`` so that its shorter side is ``shorter``.

    Calls the uint8 kernel behind torchvision's ``resize`` directly, to avoid its overhead.
    """
    height, width = image.shape[-2:]
    size = (
        (shorter, int(shorter * width / height))
        if height <= width
        else (int(shorter * height / width), shorter)
    )
    mode = spec.interpolation
    batch = image[None].contiguous(memory_format=torch.channels_last)
    out: Tensor = functional.interpolate(batch, size, mode=mode, antialias=mode != "nearest")[0]
    return out
