"""Atomic, multi-threaded construction of the cache of decoded images."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache.checksums import checksums
from tl_lightning.data.cache.contents import common_folder, split_contents
from tl_lightning.data.cache.images import FILES, ImageCache, estimate
from tl_lightning.data.datasets import SplitReader
from tl_lightning.data.domain import Split
from tl_lightning.data.threaded_loader import in_order, pool_of
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec
from tl_lightning.utils.files import DAMAGED, locked
from tl_lightning.utils.owned import draft_folder, publish, remove_owned
from tl_lightning.utils.progress import advancing

__all__ = ["build_cache"]

#: Increase when the same settings yield different bytes, to invalidate older caches.
_FORMAT = 2


def build_cache(
    split: Split, name: str, shorter: int, spec: InputSpec, settings: CacheConfig
) -> ImageCache:
    """Return the decoded images of a split; build the cache if it does not exist.

    One process builds while others wait. The cache is created atomically, and depends on the
    names and on all bytes of the files; unchanged images of an older cache are reused. An older
    cache of the same folder is removed if a file has changed.

    Args:
        split: Files with distinct names; its ``change`` is applied before resizing.
        name: Human-readable prefix of the folder.
        shorter: Shorter side of the stored images.
        spec: Provides the interpolation mode.
        settings: Location of the cache.

    Raises:
        DataError: If an image cannot be read or changes, or the disk is too small.
    """
    change = split.change and [type(split.change).__name__, sorted(vars(split.change).items())]
    key = json.dumps([_FORMAT, shorter, spec.interpolation, change, split.white], default=str)
    family = settings.folder / f"{name}-{_digest(key)}"
    names, hashes = list(split.names), split_contents(split)
    root = common_folder([Path(path) for path in split.samples])
    folder = family / _digest(json.dumps(names) + hashes.tobytes().hex())
    with locked(family / "build"):
        with contextlib.suppress(*DAMAGED):
            return ImageCache(folder)
        # Left by a killed build (the lock is held, none runs), or corrupt after a disk failure.
        for stale in (folder, *family.glob("*.tmp")):
            remove_owned(stale, FILES)
        older = _older_caches(family)
        reusable = _reusable(older, names, hashes)
        to_decode = [Path(split.samples[k]) for k in range(len(names)) if k not in reusable]
        _check_disk(family, estimate(to_decode, shorter))
        _write(folder, split, reusable, SplitReader(split, shorter, spec), hashes, root)
        built = ImageCache(folder)
        for cache in older:
            if _superseded(cache, built):
                remove_owned(cache.folder, FILES)
    return built


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _older_caches(family: Path) -> list[ImageCache]:
    caches = []
    for folder in sorted(path for path in family.iterdir() if path.is_dir()):
        with contextlib.suppress(*DAMAGED):
            caches.append(ImageCache(folder))
    return caches


def _reusable(
    older: Sequence[ImageCache], names: Sequence[str], hashes: NDArray[np.int64]
) -> dict[int, Tensor]:
    """Return the unchanged images of older caches by their index in the new one."""
    reusable = {}
    for cache in older:
        for index, name in enumerate(names):
            old = cache.places.get(name)
            if old is not None and (cache.hashes[old] == hashes[index]).all():
                with contextlib.suppress(DataError):  # damaged
                    reusable[index] = cache[old]
    return reusable


def _superseded(old: ImageCache, new: ImageCache) -> bool:
    """Return whether a file of ``old`` has changed since, so that it will not be used again."""
    if old.root != new.root:  # of another folder with the same name
        return False
    both = [(index, new.places[name]) for index, name in enumerate(old.names) if name in new.places]
    return any((old.hashes[a] != new.hashes[b]).any() for a, b in both)


def _check_disk(family: Path, needed: int) -> None:
    free = shutil.disk_usage(family).free
    if needed > 0.95 * free:
        raise DataError(
            f"the decoded images need about {needed / 1e9:.1f} GB, but {family.parent} has "
            f"{free / 1e9:.1f} GB free; set cache.dir=/a/larger/disk, a smaller "
            "cache.shorter_side, or cache.images=off"
        )


def _write(
    folder: Path,
    split: Split,
    reusable: dict[int, Tensor],
    read: SplitReader,
    hashes: NDArray[np.int64],
    root: str,
) -> None:
    """Write the images to a temporary folder, then rename it to ``folder``."""
    temporary = draft_folder(folder)
    shapes, problems = [], []
    try:
        with (temporary / "pixels.bin").open("wb") as file:
            for image in _decoded(len(split), reusable, read):
                if isinstance(image, DataError):
                    problems.append(str(image))
                    continue
                shapes.append(image.shape[-2:])
                file.write(image.permute(1, 2, 0).contiguous().numpy().data)
            _sync(file)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise DataError(problems[0] + more)
        if (split_contents(split) != hashes).any():
            raise DataError(
                f"files of {root} changed while they were decoded; run again once they are complete"
            )
        with (temporary / "index.npz").open("wb") as file:
            np.savez(
                file,
                names=np.frombuffer(json.dumps(list(split.names)).encode(), dtype=np.uint8),
                hashes=hashes,
                sums=np.array(checksums(_bytes_of(temporary / "pixels.bin")), dtype=np.int64),
                root=np.frombuffer(os.fsencode(root), dtype=np.uint8),
                shapes=np.array(shapes, dtype=np.int64).reshape(-1, 2),
            )
            _sync(file)
        publish(temporary, folder, "index.npz")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"the disk of {folder.parent} is full; free some disk space, or set "
            "cache.dir=/a/larger/disk or cache.images=off"
        ) from error
    finally:
        remove_owned(temporary, FILES)


def _bytes_of(file: Path) -> NDArray[np.uint8]:
    if not file.stat().st_size:  # cannot be mapped
        return np.empty(0, dtype=np.uint8)
    return np.memmap(file, dtype=np.uint8, mode="r")


def _decoded(
    number: int, reusable: dict[int, Tensor], read: SplitReader
) -> Iterator[Tensor | DataError]:
    """Yield every image in order, decoded on all cores with a bounded lookahead."""
    threads = os.cpu_count() or 1

    def load(index: int) -> Tensor | DataError:
        if index in reusable:
            return reusable[index]
        try:
            return read(index)
        except DataError as error:
            return error

    text = f"decoding {number - len(reusable):,} images"
    with pool_of(threads) as pool, advancing(text, number) as advance:
        for image in in_order(pool, load, range(number), ahead=8 * threads):
            yield image
            advance(1)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
