"""From a file to pixels: one way to decode, for training, caching and checking alike."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec
from tl_lightning.utils.files import AWAY

__all__ = [
    "UNREADABLE",
    "decode",
    "fitted",
    "open_bytes",
    "open_picture",
    "resized",
    "shorter_side",
]

#: What decoders raise for a file that is no picture or only a part of one: nearly everything.
#: A defect of ours would hide among these, so nothing but decoding stands inside the ``try``.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, AttributeError, LookupError),
    *(ArithmeticError, MemoryError, RuntimeError, AssertionError, struct.error, zlib.error),
    Image.DecompressionBombError,
)


def open_picture(path: Path, shorter: int | None = None) -> Tensor:
    """Decode a picture to RGB ``(3, H, W)`` uint8, turned as its EXIF says.

    16-bit pictures keep their upper 8 bits; of an animation the first frame is taken.

    Args:
        path: The file.
        shorter: The side that the picture will be resized to, or None. A JPEG that is more than
            twice as large is decoded at a half, a quarter or an eighth of its size, at least
            twice as large as needed.

    Raises:
        DataError: If the file is gone or no whole picture; names it.
    """
    try:
        pixels = _opened(path, shorter)
    except FileNotFoundError as error:
        raise DataError(f"picture {path} is gone: it was there when the run started") from error
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.errno in AWAY:
            raise DataError(
                f"cannot read picture {path}: {error.strerror}; see that its disk or mount "
                "answers, then type resume=auto to go on"
            ) from error
        raise DataError(
            f"cannot read picture {path}: {reason}; mend or remove the file and start again, or "
            "type data.on_error=skip to leave such files out"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def open_bytes(content: bytes, where: str, shorter: int | None = None) -> Tensor:
    """Decode a picture that is in memory, as :func:`open_picture` does one in a file.

    Args:
        content: What a file would hold.
        where: Names it in errors.
        shorter: As in :func:`open_picture`.

    Raises:
        DataError: If it is no whole picture.
    """
    try:
        pixels = _opened(io.BytesIO(content), shorter)
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"cannot read picture {where}: {reason}; make the shards again without it "
            "(scripts/check_data.py finds such files)"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _opened(source: Path | io.BytesIO, shorter: int | None) -> NDArray[np.uint8]:
    with Image.open(source) as picture:
        return decode(picture, shorter)


def decode(picture: Image.Image, shorter: int | None = None) -> NDArray[np.uint8]:
    """Return an opened picture's pixels ``(H, W, 3)``; see :func:`open_picture`."""
    if shorter is not None and picture.format == "JPEG":
        # Asks the decoder for the smallest size that is at least this on both sides.
        picture.draft("RGB", (2 * shorter, 2 * shorter))
    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I;16") or turned.mode == "I":
        # Pillow's own conversion clips at 255: nearly all of a 16-bit picture would be white.
        wide = np.asarray(turned).astype(np.int64).clip(0, 65535)
        deep = turned.mode != "I" or wide.max() > 255
        turned = Image.fromarray((wide >> 8 if deep else wide).astype(np.uint8))
    return np.array(turned.convert("RGB"))


def shorter_side(spec: InputSpec) -> int:
    """Return the side that evaluation resizes a picture's shorter side to."""
    return round(spec.size / spec.crop_pct)


def fitted(picture: Tensor, shorter: int, spec: InputSpec) -> Tensor:
    """Shrink a picture ``(3, H, W)`` so that its shorter side is ``shorter``; never enlarge it."""
    if min(picture.shape[-2:]) <= shorter:
        return picture
    return resized(picture, shorter, spec)


def resized(picture: Tensor, shorter: int, spec: InputSpec) -> Tensor:
    """Resize a picture ``(3, H, W)`` so that its shorter side is ``shorter``.

    Torch's own kernel for whole bytes: what torchvision's ``resize`` calls, without its overhead.
    """
    height, width = picture.shape[-2:]
    size = (
        (shorter, int(shorter * width / height))
        if height <= width
        else (int(shorter * height / width), shorter)
    )
    mode = spec.interpolation
    whole = picture[None].contiguous(memory_format=torch.channels_last)
    out: Tensor = functional.interpolate(whole, size, mode=mode, antialias=mode != "nearest")[0]
    return out
