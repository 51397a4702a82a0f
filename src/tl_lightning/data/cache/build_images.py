"""Building the cache of decoded pictures: all cores, whole or not at all, one process at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.cache.images import CacheSettings, PictureCache, estimate
from tl_lightning.data.datasets import SplitReader
from tl_lightning.data.domain import Split
from tl_lightning.data.threaded_loader import in_order, pool_of
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec
from tl_lightning.utils.files import locked
from tl_lightning.utils.progress import advancing

__all__ = ["build_cache", "file_stamps"]

#: Raise when the same settings give other bytes: older caches are then left aside.
_FORMAT = 1


def build_cache(
    split: Split, name: str, shorter: int, spec: InputSpec, settings: CacheSettings
) -> PictureCache:
    """Return the decoded pictures of a split, from the cache or decoded now.

    One process builds while the others wait. The pictures appear whole or not at all; of an older
    cache, what has not changed is taken over.

    Args:
        split: Files with distinct names, and the change that is applied before shrinking.
        name: Names the folder, for people.
        shorter: Shorter side of the stored pictures.
        spec: Whose interpolation shrinks them.
        settings: Where the cache lies.

    Raises:
        DataError: If a picture cannot be read, or the disk cannot hold them.
    """
    change = split.change and [type(split.change).__name__, sorted(vars(split.change).items())]
    how = json.dumps([_FORMAT, shorter, spec.interpolation, change], default=str)
    family = settings.folder / f"{name}-{_digest(how)}"
    names, stamps = list(split.names), file_stamps(split)
    folder = family / _digest(json.dumps(names) + stamps.tobytes().hex())
    with locked(family / "build"):
        with contextlib.suppress(OSError, KeyError, ValueError):
            return PictureCache(folder)
        for left in family.glob("*.tmp"):  # a build that was killed: the lock says none runs now
            shutil.rmtree(left, ignore_errors=True)
        if folder.exists():  # there, but not whole: a failing disk
            shutil.rmtree(folder)
        older = _older(family)
        known = _known(older, names, stamps)
        fresh = [Path(split.pictures[k]) for k in range(len(names)) if k not in known]
        _check_disk(family, estimate(fresh, shorter), settings)
        _write(folder, split, known, SplitReader(split, shorter, spec), stamps)
        built = PictureCache(folder)
        for cache in older:
            if _superseded(cache, built):
                shutil.rmtree(cache.folder, ignore_errors=True)
    return built


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_stamps(split: Split) -> NDArray[np.int64]:
    """Return size and time of change of every file."""
    try:
        found = [os.stat(Path(path)) for path in split.pictures]
    except OSError as error:
        raise DataError(f"picture {error.filename} is gone: it was there a moment ago") from error
    return np.array([(stat.st_size, stat.st_mtime_ns) for stat in found], dtype=np.int64)


def _older(family: Path) -> list[PictureCache]:
    found = []
    for folder in sorted(path for path in family.iterdir() if path.is_dir()):
        with contextlib.suppress(OSError, KeyError, ValueError):
            found.append(PictureCache(folder))
    return found


def _known(
    older: Sequence[PictureCache], names: Sequence[str], stamps: NDArray[np.int64]
) -> dict[int, Tensor]:
    """Return the pictures that an older cache holds unchanged, by their place in the new one."""
    known = {}
    for cache in older:
        for place, name in enumerate(names):
            old = cache.places.get(name)
            if old is not None and (cache.stamps[old] == stamps[place]).all():
                known[place] = cache[old]
    return known


def _superseded(old: PictureCache, new: PictureCache) -> bool:
    """Whether a file of the old one has changed since: nobody will ask for it again."""
    both = [(place, new.places[name]) for place, name in enumerate(old.names) if name in new.places]
    return any((old.stamps[a] != new.stamps[b]).any() for a, b in both)


def _check_disk(family: Path, needed: int, settings: CacheSettings) -> None:
    free = shutil.disk_usage(family).free
    if needed > 0.95 * free:
        raise DataError(
            f"the decoded pictures need about {needed / 1e9:.1f} GB, but {family.parent} has "
            f"{free / 1e9:.1f} GB free; type cache.dir=/a/larger/disk, a smaller cache.shorter, or "
            "cache.images=off"
        )


def _write(
    folder: Path,
    split: Split,
    known: dict[int, Tensor],
    read: SplitReader,
    stamps: NDArray[np.int64],
) -> None:
    """Write the pictures beside their final place, then give them their name."""
    draft = Path(tempfile.mkdtemp(suffix=".tmp", dir=folder.parent))
    shapes, faults = [], []
    try:
        with (draft / "pixels.bin").open("wb") as file:
            for picture in _decoded(len(split), known, read):
                if isinstance(picture, DataError):
                    faults.append(str(picture))
                    continue
                shapes.append(picture.shape[-2:])
                file.write(picture.permute(1, 2, 0).contiguous().numpy().data)
            _to_disk(file)
        if faults:
            more = f" (and {len(faults) - 1} more like it)" if len(faults) > 1 else ""
            raise DataError(faults[0] + more)
        with (draft / "index.npz").open("wb") as file:
            np.savez(
                file,
                names=np.frombuffer(json.dumps(list(split.names)).encode(), dtype=np.uint8),
                stamps=stamps,
                shapes=np.array(shapes, dtype=np.int64).reshape(-1, 2),
            )
            _to_disk(file)
        os.replace(draft, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"the disk of {folder.parent} is full; make room, or type cache.dir=/a/larger/disk or "
            "cache.images=off"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _decoded(
    number: int, known: dict[int, Tensor], read: SplitReader
) -> Iterator[Tensor | DataError]:
    """Yield every picture in order, decoded by all cores a few ahead of the one written."""
    threads = os.cpu_count() or 1

    def one(place: int) -> Tensor | DataError:
        if place in known:
            return known[place]
        try:
            return read(place)
        except DataError as error:
            return error

    text = f"decoding {number - len(known):,} pictures"
    with pool_of(threads) as pool, advancing(text, number) as advance:
        for picture in in_order(pool, one, range(number), ahead=8 * threads):
            yield picture
            advance(1)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
