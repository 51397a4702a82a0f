"""One scale for the images of a dataset that have grey values of more than 8 bits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tl_lightning.config.schema import cache_root
from tl_lightning.data.cache.contents import contents
from tl_lightning.data.io.images import FORMATS, UNREADABLE
from tl_lightning.data.io.metadata import PNG
from tl_lightning.data.io.pixels import is_deep
from tl_lightning.utils.files import locked, write_text
from tl_lightning.utils.progress import advancing

__all__ = ["deep_images", "white_among", "white_of", "white_value"]


def white_of(paths: Sequence[Path]) -> float | None:
    """Return the value of white in the deep images among these files; None if there are none."""
    deep = deep_images(paths)
    return white_among(deep) if deep else None


def white_among(deep: Sequence[Path]) -> float:
    """Return the value of white in images that are known to be deep."""
    return white_value(_largest(deep))


def white_value(largest: float) -> float:
    """Return 1 if no value is larger, else the maximum of 8, 10, 12, ... bits that is large enough.

    >>> [white_value(x) for x in (0.8, 1, 200, 255, 256, 4000, 40000, 70000)]
    [1.0, 1.0, 255.0, 255.0, 1023.0, 4095.0, 65535.0, 262143.0]
    """
    if largest <= 1:
        return 1.0
    return 2.0 ** max(8, 2 * math.ceil(math.log2(largest + 1) / 2)) - 1


def deep_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files with grey values of more than 8 bits, by their headers."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [path for path, deep in zip(paths, pool.map(_deep, paths), strict=True) if deep]


def _deep(path: Path) -> bool:
    with contextlib.suppress(*UNREADABLE):
        with path.open("rb") as file:
            start = file.read(26)
        if start.startswith(PNG):
            return start[24:] == b"\x10\0"  # 16 bits, grey
        if start.startswith((b"II", b"MM", b"P")):
            with Image.open(path, formats=FORMATS) as image:
                return is_deep(image)
    return False


def _largest(paths: Sequence[Path]) -> float:
    """Return the largest value in these images; remembered by the bytes of the files."""
    key = hashlib.sha256(contents(paths).tobytes()).hexdigest()[:16]
    cached = cache_root() / "depth" / f"{key}.json"
    with locked(cached):
        with contextlib.suppress(OSError, ValueError, TypeError):
            return float(json.loads(cached.read_text()))
        text = f"finding the largest value of {len(paths):,} images"
        largest = 0.0
        with ThreadPoolExecutor(os.cpu_count()) as pool, advancing(text, len(paths)) as advance:
            for value in pool.map(_maximum, paths):
                largest = max(largest, value)
                advance(1)
        write_text(cached, json.dumps(largest))
    return largest


def _maximum(path: Path) -> float:
    """Return the largest finite value; 0 if the file cannot be read, which is reported later."""
    with contextlib.suppress(*UNREADABLE), Image.open(path, formats=FORMATS) as image:
        values = np.asarray(image)
        return float(np.max(values, where=np.isfinite(values), initial=0))
    return 0.0
