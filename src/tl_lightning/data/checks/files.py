"""Checks of a single image file in one pass over its content."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagehash
import numpy as np
from PIL import Image, UnidentifiedImageError

from tl_lightning.data.checks.issues import printable
from tl_lightning.data.io.folders import signature_problem
from tl_lightning.data.io.images import FORMATS as DECODED
from tl_lightning.data.io.images import UNREADABLE, decode
from tl_lightning.data.io.pixels import is_deep, is_flat

__all__ = ["THUMBNAIL", "TINY", "Finding", "examine"]

#: Images with a shorter side below this consist mostly of interpolation once they are enlarged.
TINY = 32
#: Size for decoding JPEGs at reduced resolution, which is sufficient for the hashes.
SMALL = 64
#: Side of the grayscale thumbnail that confirms duplicates.
THUMBNAIL = 16

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
}
#: Equivalent formats: phones save JPEG with an appended preview as MPO.
ALIASES = {"MPO": "JPEG", "DIB": "BMP"}


@dataclass(frozen=True)
class Finding:
    """Result of checking one file.

    Attributes:
        path: The file.
        kinds: Detail (may be empty) of each kind of problem in ``KINDS``.
        size: Width and height after EXIF rotation; None if the file could not be decoded.
        digest: Hash of the content; empty if the file could not be opened.
        phash: Perceptual hash, or None.
        thumbnail: 16 x 16 gray pixels, or empty.
    """

    path: Path
    kinds: dict[str, str]
    size: tuple[int, int] | None = None
    digest: bytes = b""
    phash: int | None = None
    thumbnail: bytes = b""


def examine(path: Path, white: float | None = None) -> Finding:
    """Check an image file; never raises because of its content.

    Args:
        path: The file.
        white: As in :func:`.open_image`.
    """
    kinds: dict[str, str] = {}
    if printable(path) != str(path):
        kinds["bad_name"] = ""
    try:
        with path.open("rb") as file:
            start = file.read(12)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            problem = signature_problem(start)
            if problem:
                kinds["not_an_image" if start else "empty"] = problem if start else ""
                return Finding(path, kinds, digest=digest)
            file.seek(0)
            return _examine_content(path, file, kinds, digest, white)
    except OSError as error:
        return Finding(path, {**kinds, "unreadable": error.strerror or str(error)})


def _examine_content(
    path: Path, file: BinaryIO, kinds: dict[str, str], digest: bytes, white: float | None
) -> Finding:
    # Decoder errors are handled here, since an OSError from a decoder is not an unreadable file.
    try:
        # Decode as in training, so that both accept the same files.
        found = decode(file, SMALL, white)
    except Image.DecompressionBombError as error:
        return Finding(path, {**kinds, "enormous": str(error).split(",")[0]}, digest=digest)
    except UNREADABLE as error:
        detail = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            detail = "has the signature of an image, but no decoder can read it"
        return Finding(path, {**kinds, "truncated": detail}, digest=digest)
    notes = {"metadata": found.problem} if found.problem else {}
    with (
        contextlib.suppress(*UNREADABLE),
        Image.open(file, formats=DECODED) as image,
    ):  # metadata may be damaged
        notes |= _examine_header(path, image)
    if found.transparent:
        notes["transparent"] = ""
    if is_flat(found.pixels):
        notes["flat"] = f"values of {found.pixels.min()} to {found.pixels.max()}"
    if found.orientation > 1:
        notes["exif_rotated"] = f"orientation {found.orientation}"
    if min(found.size) < TINY:
        notes["tiny"] = f"{found.size[0]} x {found.size[1]}"
    small = Image.fromarray(found.pixels).convert("L")
    thumbnail = small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    bits = np.packbits(imagehash.phash(small).hash.reshape(-1))
    return Finding(
        path,
        {**kinds, **notes},
        size=found.size,
        digest=digest,
        phash=int.from_bytes(bits.tobytes(), "big"),
        thumbnail=thumbnail.tobytes(),
    )


def _examine_header(path: Path, image: Image.Image) -> dict[str, str]:
    """Check the header of an opened image without decoding it."""
    notes: dict[str, str] = {}
    image_format = ALIASES.get(image.format or "", image.format or "")
    if image_format != FORMATS.get(path.suffix.lower()):
        notes["suffix_lies"] = image_format
    if image.mode == "CMYK":
        notes["cmyk"] = ""
    raw = " ".join(str(tile[3]) for tile in getattr(image, "tile", []))  # such as "RGB;16B"
    if is_deep(image) or ";16" in raw:
        notes["sixteen_bit"] = f"mode {image.mode}"
    elif image.mode in ("1", "L", "LA"):
        notes["grayscale"] = ""
    with contextlib.suppress(*UNREADABLE):  # a later frame may be damaged
        if image.format != "MPO" and getattr(image, "is_animated", False):
            notes["animated"] = str(getattr(image, "n_frames", "several")) + " frames"
    return notes


def quiet_decoders() -> warnings.catch_warnings[Any]:
    """Return a context manager that silences decoder warnings.

    Enter it once in the main thread: warning filters are global, so entering it in every thread
    would be a race.
    """
    return warnings.catch_warnings(action="ignore")
