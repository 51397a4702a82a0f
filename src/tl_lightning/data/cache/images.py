"""Cache of decoded images (one file of pixels and an index), shared by all epochs and runs.

Images are stored with EXIF orientation applied, downscaled to the evaluation size (never enlarged)
and with the synthetic shift applied, so that evaluation from the cache is bit-identical to
evaluation from the files. Training crops from the downscaled image.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache.checksums import BLOCK, Checked
from tl_lightning.data.io.images import UNREADABLE
from tl_lightning.errors import DataError
from tl_lightning.utils.console import say
from tl_lightning.utils.owned import remove_owned

__all__ = ["FILES", "CachedReader", "ImageCache", "estimate", "worth_it"]

#: Files of a cache.
FILES = ("pixels.bin", "index.npz")
_SAMPLED = 200
_MAPPED = ("pixels", "checked")


class ImageCache:
    """Decoded images in one memory-mapped file.

    Args:
        folder: Contains ``pixels.bin`` and ``index.npz``.

    Raises:
        DAMAGED: Any of these, if the files are incomplete or corrupt.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "index.npz"
        with path.open("rb") as file, np.load(file, allow_pickle=False) as index:
            self.names: list[str] = json.loads(index["names"].tobytes())
            self.hashes: NDArray[np.int64] = index["hashes"]
            self.sums: list[int] = index["sums"].tolist()
            self.root = os.fsdecode(index["root"].tobytes())
            self.shapes: NDArray[np.int64] = index["shapes"]
        self.starts = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1) * 3)])
        size = (folder / "pixels.bin").stat().st_size
        if len(self.names) != len(self.shapes) or size != self.starts[-1]:
            raise ValueError(f"{folder} is incomplete")
        self._map()

    def _map(self) -> None:
        # Copy-on-write, because torch warns about read-only memory. Empty files cannot be mapped.
        has_pixels = self.starts[-1] > 0
        file = self.folder / "pixels.bin"
        pixels = np.memmap(file, dtype=np.uint8, mode="c") if has_pixels else np.empty(0, np.uint8)
        self.pixels = torch.from_numpy(pixels)
        self.checked = Checked(pixels, self.sums)
        # Indexing lists is faster than indexing arrays element by element.
        self.sizes, self.offsets = self.shapes.tolist(), self.starts.tolist()
        self.places = {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> Tensor:
        """Return an image ``(3, H, W)`` uint8 as a view of the mapped file.

        Raises:
            DataError: If the bytes have changed since they were written; the cache is removed.
        """
        height, width = self.sizes[place]
        first, end = self.offsets[place], self.offsets[place] + 3 * height * width
        if not self.checked.intact(range(first // BLOCK, (end - 1) // BLOCK + 1)):
            remove_owned(self.folder, FILES)
            raise DataError(
                f"the decoded images in {self.folder} have changed since they were written: the "
                "disk or the memory is defective; they were removed and are decoded again by the "
                "next run, set resume=auto to continue this one"
            )
        return self.pixels.as_strided((3, height, width), (1, 3 * width, 3), self.offsets[place])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapped pixels; a worker maps the file itself."""
        return {key: value for key, value in vars(self).items() if key not in _MAPPED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()


class CachedReader:
    """Reader of a split's images from a cache that contains them."""

    def __init__(self, cache: ImageCache, names: Sequence[str]) -> None:
        self.cache = cache
        self.places = [cache.places[name] for name in names]

    def __call__(self, place: int) -> Tensor:
        """Return the image at index ``place`` of the split."""
        return self.cache[self.places[place]]


def worth_it(paths: Sequence[Path], shorter: int, settings: CacheConfig, epochs: int) -> bool:
    """Return whether to cache the images; prints a note if they are too large for ``auto``.

    Args:
        paths: All files that would be decoded.
        shorter: Shorter side of the stored images.
        settings: The requested settings.
        epochs: Number of training epochs.
    """
    if settings.images != "auto":
        return settings.images == "decoded"
    if epochs < 2:
        return False
    needed = estimate(paths, shorter)
    existing = next(
        folder for folder in (settings.folder, *settings.folder.parents) if folder.is_dir()
    )
    free = shutil.disk_usage(existing).free
    if needed <= min(1e9 * settings.limit_gb, free / 2):
        return True
    say(
        f"images are decoded again in every epoch: a cache would take {needed / 1e9:.1f} GB "
        f"(cache.limit_gb={settings.limit_gb:g}, {free / 1e9:.1f} GB free); set "
        "cache.images=decoded to build it anyway"
    )
    return False


def estimate(paths: Sequence[Path], shorter: int) -> int:
    """Estimate the size of the decoded images in bytes from the headers of a subset."""
    step = max(1, len(paths) // _SAMPLED)
    sizes = []
    for path in paths[::step]:
        with contextlib.suppress(*UNREADABLE), Image.open(path) as image:
            width, height = image.size
            scale = min(1.0, shorter / min(width, height))
            sizes.append(3 * width * height * scale**2)
    return int(np.mean(sizes) * len(paths)) if sizes else 0
