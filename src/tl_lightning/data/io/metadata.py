"""Metadata of image files: the orientation, and files whose metadata cannot be read."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["orientation_of", "upright", "without_metadata"]

ORIENTATION = 0x0112
PNG = b"\x89PNG\r\n\x1a\n"
#: PNG chunks that the pixels depend on.
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def orientation_of(exif: Image.Exif) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none or it has an invalid value."""
    value = exif.get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a view of pixels ``(H, W, 3)`` as they are shown with this EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def without_metadata(content: bytes) -> tuple[bytes, Image.Exif] | None:
    """Return a JPEG or PNG file without its metadata, and the EXIF block; None for other files.

    Decoders reject some files because of a text, colour profile or preview that is not needed for
    the pixels, and that viewers ignore.
    """
    if content.startswith(b"\xff\xd8\xff"):
        kept, block = _jpeg_parts(content)
    elif content.startswith(PNG):
        kept, block = _png_parts(content)
    else:
        return None
    exif = Image.Exif()
    if block:
        exif.load(block)
    return kept, exif


def _jpeg_parts(content: bytes) -> tuple[bytes, bytes]:
    kept, block, at = [content[:2]], b"", 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xDA:  # start of the compressed pixels
            break
        segment = content[at : at + 2 + length]
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            block = segment[4:]
        # Keep JFIF (APP0) and Adobe's segment (APP14), which state the colour space.
        if not (0xE1 <= marker <= 0xEF and marker != 0xEE) and marker != 0xFE:
            kept.append(segment)
        at += 2 + length
    return b"".join([*kept, content[at:]]), block


def _png_parts(content: bytes) -> tuple[bytes, bytes]:
    kept, block, at = [PNG], b"", len(PNG)
    while at + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        if name in PIXEL_CHUNKS:
            kept.append(content[at : at + 12 + length])
        elif name == b"eXIf":
            block = b"Exif\0\0" + content[at + 8 : at + 8 + length]
        at += 12 + length
    return b"".join(kept), block
