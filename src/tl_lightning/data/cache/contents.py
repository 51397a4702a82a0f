"""Hashes of the contents of files, remembered by inode, size and times.

Names, sizes and modification times do not identify a file: archives and copies keep times, and
uncompressed images of one size have equally many bytes. Everything that is cached of a file
therefore depends on a hash of all of its bytes. An index per folder, below the folder of the
caches, keeps the hashes, so that the next run only calls ``stat``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tl_lightning.config.schema import cache_root
from tl_lightning.data.domain import Split
from tl_lightning.errors import DataError
from tl_lightning.utils.files import DAMAGED, locked, write_bytes

__all__ = ["common_folder", "contents", "split_contents", "stamp_of"]

#: Age in nanoseconds from which a file is trusted to change visibly. A younger file could be
#: written again without another time, as clocks of file systems are coarse.
SETTLED = 2_000_000_000
#: Files of up to this many bytes are read at once.
WHOLE = 8 << 20
THREADS = 16
#: Number of files that a thread hashes at a time.
CHUNK = 64


def contents(paths: Sequence[Path]) -> NDArray[np.int64]:
    """Return a hash of the bytes of every file, ``(N, 2)``; 0 for those that cannot be read.

    A file is read only if it is new, or if its inode, size, modification or change time differ
    from those in the index. One process reads a folder while others wait.

    Args:
        paths: Any files, also of several folders.
    """
    found = np.zeros((len(paths), 2), dtype=np.int64)
    by_folder: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        by_folder.setdefault(os.path.dirname(path), []).append(place)
    with ThreadPoolExecutor(THREADS) as pool:
        for folder, places in by_folder.items():
            names = [os.path.basename(paths[place]) for place in places]
            found[places] = _Folder(os.path.realpath(folder or "."), pool).hashes(names)
    return found


def split_contents(split: Split) -> NDArray[np.int64]:
    """Return the hashes of the files of a split, ``(N, 2)``; see :func:`contents`.

    Raises:
        DataError: If a file is missing or cannot be read.
    """
    paths = [Path(path) for path in split.samples]
    found = contents(paths)
    for place in np.flatnonzero(~found.any(axis=1)).tolist():
        try:
            with paths[place].open("rb") as file:
                file.read(1)
        except FileNotFoundError as error:
            raise DataError(f"image {paths[place]} has disappeared since it was listed") from error
        except OSError as error:
            raise DataError(
                f"cannot read image {paths[place]}: {error.strerror or error}; fix or remove the "
                "file, or set data.on_error=skip to leave out unreadable files"
            ) from error
        raise DataError(f"image {paths[place]} changed while it was read; run again")
    return found


def common_folder(paths: Sequence[Path]) -> str:
    """Return the resolved folder that contains all files; empty if there are none."""
    folders = {os.path.realpath(folder) for folder in {os.path.dirname(path) for path in paths}}
    with contextlib.suppress(ValueError):  # on several drives
        return os.path.commonpath(folders)
    return ""


class _Known(NamedTuple):
    """Contents of an index: the row of each name, its stamps ``(M, 4)`` and hashes ``(M, 2)``."""

    rows: dict[bytes, int]
    stamps: NDArray[np.int64]
    hashes: NDArray[np.int64]


class _Folder:
    """The hashes of the files of one folder.

    Args:
        folder: The folder, resolved.
        pool: Threads that read files.
    """

    def __init__(self, folder: str, pool: ThreadPoolExecutor) -> None:
        self.folder = folder
        self.pool = pool
        self.digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
        self.index = cache_root() / "contents" / f"{self.digest}.npz"

    def hashes(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the hashes of these files, ``(N, 2)``."""
        keys = [os.fsencode(name) for name in names]
        stamps = np.array([self._stamp(name) for name in names], dtype=np.int64)
        found, missing = _looked_up(self._load(), keys, stamps)
        if not len(missing):
            return found
        with self._locked() as writable:
            known = self._load()  # another process may have hashed them in the meantime
            found, missing = _looked_up(known, keys, stamps)
            if not len(missing):
                return found
            now = time.time_ns()
            parts = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
            read = self.pool.map(lambda part: [self._read(names[k]) for k in part], parts)
            for place, (stamp, digest) in zip(missing, [r for part in read for r in part],
                                              strict=True):  # fmt: skip
                stamps[place], found[place] = stamp, np.frombuffer(digest, dtype=np.int64)
            if writable and os.path.isdir(self.folder):
                self._save(known, keys, stamps, found, now)
        return found

    def _stamp(self, name: str) -> tuple[int, int, int, int]:
        try:
            return stamp_of(os.stat(os.path.join(self.folder, name)))
        except OSError:
            return (0, -1, 0, 0)

    def _read(self, name: str) -> tuple[tuple[int, int, int, int], bytes]:
        """Return the stamp and the hash of a file; the stamp is invalid if it cannot be kept."""
        digest = hashlib.blake2b(digest_size=16)
        try:
            with open(os.path.join(self.folder, name), "rb", buffering=0) as file:
                before = stamp_of(os.fstat(file.fileno()))
                while block := file.read(WHOLE):
                    digest.update(block)
                after = stamp_of(os.fstat(file.fileno()))
        except OSError:
            return (0, -1, 0, 0), bytes(16)
        return before if before == after else (0, -1, 0, 0), digest.digest()

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the lock of the index; yield False if the cache is not writable."""
        with ExitStack() as stack:
            try:
                # A few locks for all folders, rather than one file for each.
                stack.enter_context(locked(self.index.with_name(self.digest[:2])))
            except DataError:
                yield False
                return
            yield True

    def _load(self) -> _Known:
        with contextlib.suppress(*DAMAGED):
            with self.index.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                keys = stored["names"].tobytes().split(b"\0") if len(stored["names"]) else []
                known = _Known(
                    {key: row for row, key in enumerate(keys)}, stored["stamps"], stored["hashes"]
                )
            if known.stamps.shape == (len(keys), 4) and known.hashes.shape == (len(keys), 2):
                return known
        return _Known({}, np.empty((0, 4), np.int64), np.empty((0, 2), np.int64))

    def _save(
        self,
        known: _Known,
        keys: Sequence[bytes],
        stamps: NDArray[np.int64],
        hashes: NDArray[np.int64],
        now: int,
    ) -> None:
        """Add the files that have settled, and forget those that no longer exist."""
        kept = (stamps[:, 1] >= 0) & (stamps[:, 3] < now - SETTLED)
        added = {key: row for row, key in enumerate(keys) if kept[row]}
        present = set(os.listdir(os.fsencode(self.folder)))
        former = [key for key in known.rows if key in present and key not in added]
        rows, new = [known.rows[key] for key in former], list(added.values())
        file = io.BytesIO()
        np.savez(
            file,
            names=np.frombuffer(b"\0".join([*former, *added]), dtype=np.uint8),
            stamps=np.concatenate([known.stamps[rows], stamps[new]]),
            hashes=np.concatenate([known.hashes[rows], hashes[new]]),
        )
        with contextlib.suppress(OSError):  # on a full disk, they are hashed again
            write_bytes(self.index, file.getvalue())


def stamp_of(stat: os.stat_result) -> tuple[int, int, int, int]:
    """Return inode, size, modification and change time, which every replaced file changes."""
    # Windows reports the time of creation in place of that of the last change.
    changed = stat.st_mtime_ns if os.name == "nt" else stat.st_ctime_ns
    return stat.st_ino & (2**63 - 1), stat.st_size, stat.st_mtime_ns, changed


def _looked_up(
    known: _Known, keys: Sequence[bytes], stamps: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[int]]:
    """Return the known hashes, ``(N, 2)``, and the places of files that must be read."""
    found = np.zeros((len(keys), 2), dtype=np.int64)
    rows = np.array([known.rows.get(key, -1) for key in keys], dtype=np.int64)
    places = np.flatnonzero(rows >= 0)
    same = places[(known.stamps[rows[places]] == stamps[places]).all(axis=1)]
    found[same] = known.hashes[rows[same]]
    missing = np.setdiff1d(np.arange(len(keys)), same)
    return found, missing.tolist()
