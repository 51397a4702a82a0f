"""One picture file: everything that is wrong or odd with it, from one look."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagehash
import numpy as np
from PIL import Image, UnidentifiedImageError

from tl_lightning.data.checks.issues import printable
from tl_lightning.data.io.folders import signature_fault
from tl_lightning.data.io.images import UNREADABLE, decode

__all__ = ["THUMBNAIL", "TINY", "Finding", "examine"]

#: Below this shorter side, enlarging to any backbone's size mostly shows interpolation.
TINY = 32
#: A JPEG is decoded at an eighth if that leaves twice this; hashes need no more.
SMALL = 64
#: Side of the gray thumbnail that confirms what two hashes claim.
THUMBNAIL = 16

ORIENTATION = 0x0112
#: Orientations that swap width and height.
SIDEWAYS = (5, 6, 7, 8)
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
}
#: Other names of the same: telephones write JPEG with a preview behind it as MPO.
ALIASES = {"MPO": "JPEG", "DIB": "BMP"}


@dataclass(frozen=True)
class Finding:
    """What one look at a file found; holds no pixels but a thumbnail's.

    Attributes:
        path: The file.
        kinds: What is wrong or odd, each kind with a detail (perhaps empty).
        size: Width and height as seen upright; None if the file could not be decoded.
        digest: Hash of the bytes; empty if unreadable.
        phash: Perceptual hash, or None.
        thumbnail: 16 x 16 gray pixels, or empty.
    """

    path: Path
    kinds: dict[str, str]
    size: tuple[int, int] | None = None
    digest: bytes = b""
    phash: int | None = None
    thumbnail: bytes = b""


def examine(path: Path) -> Finding:
    """Return what is wrong or odd with a picture file; never raises for what the file holds."""
    kinds: dict[str, str] = {}
    if printable(path) != str(path):
        kinds["bad_name"] = ""
    try:
        with path.open("rb") as file:
            start = file.read(12)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            fault = signature_fault(start)
            if fault:
                kinds["not_a_picture" if start else "empty"] = fault if start else ""
                return Finding(path, kinds, digest=digest)
            file.seek(0)
            return _decoded(path, file, kinds, digest)
    except OSError as error:
        return Finding(path, {**kinds, "unreadable": error.strerror or str(error)})


def _decoded(path: Path, file: BinaryIO, kinds: dict[str, str], digest: bytes) -> Finding:
    # What decoders raise stays in here: an OSError of theirs is no unreadable file.
    try:
        with Image.open(file) as picture:
            width, height = picture.size
            odd = _oddities(path, picture)
            orientation = picture.getexif().get(ORIENTATION, 1)
            # As training decodes, so that what passes here passes there.
            pixels = decode(picture, SMALL)
            if _see_through(picture):
                odd["transparent"] = picture.mode
    except Image.DecompressionBombError as error:
        return Finding(path, {**kinds, "enormous": str(error).split(",")[0]}, digest=digest)
    except UNREADABLE as error:
        detail = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            detail = "begins like a picture, but no decoder can read on"
        return Finding(path, {**kinds, "truncated": detail}, digest=digest)
    if orientation in SIDEWAYS:
        width, height = height, width
    if orientation in range(2, 9):
        odd["exif_rotated"] = f"orientation {orientation}"
    if min(width, height) < TINY:
        odd["tiny"] = f"{width} x {height}"
    small = Image.fromarray(pixels).convert("L")
    thumbnail = small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    bits = np.packbits(imagehash.phash(small).hash.reshape(-1))
    return Finding(
        path,
        {**kinds, **odd},
        size=(width, height),
        digest=digest,
        phash=int.from_bytes(bits.tobytes(), "big"),
        thumbnail=thumbnail.tobytes(),
    )


def _oddities(path: Path, picture: Image.Image) -> dict[str, str]:
    """Return what the header says; decodes nothing."""
    odd: dict[str, str] = {}
    found = ALIASES.get(picture.format or "", picture.format or "")
    if found != FORMATS.get(path.suffix.lower()):
        odd["suffix_lies"] = found
    if picture.mode == "CMYK":
        odd["cmyk"] = ""
    if _deep(picture):
        odd["sixteen_bit"] = f"mode {picture.mode}"
    elif picture.mode in ("1", "L", "LA"):
        odd["grayscale"] = ""
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        odd["animated"] = str(getattr(picture, "n_frames", "several")) + " frames"
    return odd


def _deep(picture: Image.Image) -> bool:
    # Pillow opens 16-bit colour as 8-bit: only the decoder's raw mode tells ("RGB;16B").
    tiles: Any = getattr(picture, "tile", [])
    raw = " ".join(str(tile[3]) for tile in tiles)
    return picture.mode.startswith("I") or picture.mode == "F" or ";16" in raw


def _see_through(picture: Image.Image) -> bool:
    """Return whether any pixel of a decoded picture is not opaque."""
    if picture.mode in ("RGBA", "LA", "PA"):
        low, _ = picture.getchannel("A").getextrema()
        return bool(low < 255)  # type: ignore[operator]
    return "transparency" in picture.info


def quiet_decoders() -> warnings.catch_warnings[Any]:
    """Return a context without the decoders' warnings; the caller's thread enters it once.

    Python's warning filters belong to the process: entering them in every thread would race.
    """
    return warnings.catch_warnings(action="ignore")
