"""Pictures decoded once, for every later epoch and run: one file of bytes and an index.

Each picture stands there turned, shrunk to the side that evaluation needs (never enlarged), and
with the synthetic shift applied, so that evaluation from the cache equals evaluation from the files
bit for bit. Training crops from the shrunk picture.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tl_lightning.data.io.images import UNREADABLE

__all__ = ["CacheSettings", "CachedReader", "PictureCache", "cache_root", "estimate", "worth_it"]

_SAMPLED = 200


def cache_root() -> Path:
    """Return where what is built is kept: ``$TL_CACHE``, or else ``~/.cache/tl_lightning``."""
    given = os.environ.get("TL_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "tl_lightning"


@dataclass(frozen=True)
class CacheSettings:
    """What to cache and where.

    Attributes:
        features: ``full``: a frozen backbone runs once a picture; ``prefix``: its first layer
            groups that never learn do; ``off``; or ``auto``: ``full`` where a model of frozen
            features trains without augmentation.
        views: Augmented views stored of every training picture, or None: the plain picture.
        images: ``decoded``, ``off``, or ``auto``: decoded where more than one epoch trains and
            the pictures take at most ``limit_gb`` and half of the free disk.
        dir: The folder, or None for :func:`cache_root`.
        shorter: Shorter side of the stored pictures in pixels, or None for what evaluation needs.
        limit_gb: See ``images``.
    """

    images: Literal["off", "decoded", "auto"] = "off"
    dir: str | None = None
    shorter: int | None = None
    limit_gb: float = 0.0
    features: Literal["off", "full", "prefix", "auto"] = "off"
    views: int | None = None

    @property
    def folder(self) -> Path:
        """The folder for pictures."""
        return self.root / "images"

    @property
    def root(self) -> Path:
        """The folder above everything that is cached."""
        return cache_root() if self.dir is None else Path(self.dir).expanduser()


class PictureCache:
    """Decoded pictures in one memory-mapped file.

    Args:
        folder: Holds ``pixels.bin`` and ``index.npz``.

    Raises:
        OSError, KeyError, ValueError: If the two do not make a whole cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with np.load(folder / "index.npz") as index:
            self.names: list[str] = json.loads(index["names"].tobytes())
            self.stamps: NDArray[np.int64] = index["stamps"]
            self.shapes: NDArray[np.int64] = index["shapes"]
        self.starts = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1) * 3)])
        size = (folder / "pixels.bin").stat().st_size
        if len(self.names) != len(self.shapes) or size != self.starts[-1]:
            raise ValueError(f"{folder} is not whole")
        self._map()

    def _map(self) -> None:
        # Copy on write: nobody writes, but torch warns of memory that could not be written to.
        # A file of no bytes cannot be mapped.
        there = self.starts[-1] > 0
        file = self.folder / "pixels.bin"
        pixels = np.memmap(file, dtype=np.uint8, mode="c") if there else np.empty(0, np.uint8)
        self.pixels = torch.from_numpy(pixels)
        # Lists: looking numbers up in arrays would take longer than finding the picture.
        self.sizes, self.offsets = self.shapes.tolist(), self.starts.tolist()
        self.places = {name: place for place, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> Tensor:
        """Return a picture ``(3, H, W)`` uint8, a view of the file."""
        height, width = self.sizes[place]
        return self.pixels.as_strided((3, height, width), (1, 3 * width, 3), self.offsets[place])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped bytes out: a loader process maps them itself."""
        return {key: value for key, value in vars(self).items() if key != "pixels"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()


class CachedReader:
    """Reads the pictures of a split from a cache that holds them all."""

    def __init__(self, cache: PictureCache, names: Sequence[str]) -> None:
        self.cache = cache
        self.places = [cache.places[name] for name in names]

    def __call__(self, place: int) -> Tensor:
        """Return the picture at a place of the split."""
        return self.cache[self.places[place]]


def worth_it(paths: Sequence[Path], shorter: int, settings: CacheSettings, epochs: int) -> bool:
    """Return whether to cache; ``auto`` does where it pays and fits, and says if it does not fit.

    Args:
        paths: Every file that would be decoded.
        shorter: Shorter side of the stored pictures.
        settings: What was asked for.
        epochs: Epochs that train.
    """
    if settings.images != "auto":
        return settings.images == "decoded"
    if epochs < 2:
        return False
    needed = estimate(paths, shorter)
    there = next(
        folder for folder in (settings.folder, *settings.folder.parents) if folder.is_dir()
    )
    free = shutil.disk_usage(there).free
    if needed <= min(1e9 * settings.limit_gb, free / 2):
        return True
    print(
        f"pictures are decoded anew in every epoch: a cache would take {needed / 1e9:.1f} GB "
        f"(cache.limit_gb={settings.limit_gb:g}, {free / 1e9:.1f} GB free); cache.images=decoded "
        "makes it all the same",
        file=sys.stderr,
    )
    return False


def estimate(paths: Sequence[Path], shorter: int) -> int:
    """Return about how many bytes the decoded pictures take, from some of their headers."""
    step = max(1, len(paths) // _SAMPLED)
    sizes = []
    for path in paths[::step]:
        with contextlib.suppress(*UNREADABLE), Image.open(path) as picture:
            width, height = picture.size
            scale = min(1.0, shorter / min(width, height))
            sizes.append(3 * width * height * scale**2)
    return int(np.mean(sizes) * len(paths)) if sizes else 0
