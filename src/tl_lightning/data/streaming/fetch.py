"""Access to the files of a stream: local, or fetched into a size-limited cache."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tl_lightning.errors import DataError
from tl_lightning.utils.files import locked

__all__ = ["SCHEMES", "ChunkFiles", "fetched_text", "is_remote", "litdata"]

#: Address schemes of litdata; ``local:`` treats a folder (such as a network disk) as remote.
SCHEMES = ("s3://", "gs://", "azure://", "hf://", "r2://", "local:")
#: Number of chunks fetched concurrently.
THREADS = 8
#: Age in seconds after which an unfinished fetch is considered abandoned by a killed process.
ABANDONED = 6 * 3600
#: Number of attempts to open a chunk that other processes evict right after it is fetched.
PATIENCE = 20


def litdata() -> Any:
    """Import and return litdata; raises DataError if it is not installed."""
    try:
        import litdata
    except ImportError as error:
        raise DataError(
            f"streams require the package litdata, which cannot be imported ({error}); run "
            "pip install 'tl_lightning[stream]'"
        ) from error
    return litdata


def is_remote(url: str) -> bool:
    """Return whether a stream must be fetched before it can be read.

    >>> is_remote("/shards/photo"), is_remote("s3://bucket/photo")
    (False, True)
    """
    return "://" in url or url.startswith("local:")


def fetched_text(url: str, name: str) -> str | None:
    """Return the content of a text file of a stream, or None if it is missing in a local folder.

    Raises:
        DataError: If it cannot be fetched or read.
    """
    try:
        if not is_remote(url):
            path = Path(url) / name
            return path.read_text(encoding="utf-8") if path.is_file() else None
        with tempfile.TemporaryDirectory() as folder:
            _fetch(f"{url}/{name}", Path(folder) / name)
            return (Path(folder) / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {url}/{name}: {error}") from error


def _fetch(remote: str, path: Path) -> None:
    """Fetch one file with litdata's downloader; raises DataError if that fails."""
    litdata()
    from litdata.streaming.downloader import get_downloader

    folder = remote.rpartition("/")[0]
    if not remote.startswith(SCHEMES):
        raise DataError(
            f"cannot fetch {remote}: it must be a folder or start with {', '.join(SCHEMES)}"
        )
    try:
        # One client per file, because clients must not be shared with forked workers.
        get_downloader(folder, str(path.parent), []).download_file(remote, str(path))
    except Exception as error:  # every service raises its own errors
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the local disk is full, which the caller reports
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot fetch {remote}: {reason}; check that it exists and that you have read access"
        ) from error
    if not path.is_file():
        raise DataError(f"cannot fetch {remote}: nothing was received; check that it exists")


@dataclass(frozen=True)
class ChunkFiles:
    """Chunk files of one split.

    litdata's own reader assumes that each worker reads its own chunks one after another, and
    deletes a chunk once the next one is read. Here all workers read a window of chunks in random
    order. Therefore only litdata's downloaders and format are used, with an LRU cache on disk. An
    open file remains readable if another process removes it.

    Attributes:
        url: Folder or address of the split.
        names: File names of the chunks.
        sizes: Their sizes in bytes.
        root: Cache folder for the fetched chunks of all streams.
        folder: Folder of this split's chunks; ``url`` itself for local streams.
        limit: Maximum size of ``root`` in bytes.
    """

    url: str
    names: Sequence[str]
    sizes: Sequence[int]
    root: Path
    folder: Path
    limit: int

    def open(self, chunk: int) -> BinaryIO:
        """Open a chunk; fetch it first if necessary."""
        path = self.folder / self.names[chunk]
        for _ in range(PATIENCE):
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError as error:
                if not is_remote(self.url):
                    raise DataError(f"chunk {path} not found, but index.json lists it") from error
                self._get(chunk)
                continue
            except OSError as error:
                raise DataError(f"cannot open chunk {path}: {error.strerror}") from error
            if is_remote(self.url):
                with contextlib.suppress(OSError):  # may be evicted; the open file stays valid
                    os.utime(path)
            return file
        raise DataError(
            f"chunk {path} is evicted as often as it is fetched: too many processes share "
            f"{self.root}; set a larger data.cache_gb, or another data.cache_dir"
        )

    def require(self, chunks: Sequence[int]) -> None:
        """Fetch missing chunks concurrently."""
        if not is_remote(self.url):
            return
        missing = [c for c in dict.fromkeys(chunks) if not (self.folder / self.names[c]).exists()]
        if len(missing) > 1:
            with ThreadPoolExecutor(min(THREADS, len(missing))) as pool:
                list(pool.map(self._get, missing))

    def _get(self, chunk: int) -> None:
        """Fetch a chunk to a temporary folder and rename it into place, under a lock."""
        path, size = self.folder / self.names[chunk], self.sizes[chunk]
        with locked(path):
            if path.exists():
                return
            with locked(self.root / "eviction"):
                self._evict(size)
                temporary = Path(tempfile.mkdtemp(suffix=f"-{size}.tmp", dir=self.folder))
            try:
                _fetch(f"{self.url}/{path.name}", temporary / path.name)
                got = (temporary / path.name).stat().st_size
                if got != size:
                    raise DataError(
                        f"{self.url}/{path.name} has {got} bytes, but index.json lists {size}; "
                        "write the shards again"
                    )
                os.replace(temporary / path.name, path)
            except OSError as error:
                raise DataError(
                    f"cannot write chunk {path}: {error.strerror}; free some disk space, or set "
                    "data.cache_dir=/a/larger/disk"
                ) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _evict(self, size: int) -> None:
        """Remove least recently used chunks until ``size`` more bytes fit within the limit."""
        chunks, pending = [], 0
        for path in self.root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if path.suffix == ".bin":
                    chunks.append((stat.st_mtime_ns, stat.st_size, path))
                elif path.suffix != ".tmp":
                    continue
                elif time.time() - stat.st_mtime > ABANDONED:
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    pending += int(path.stem.rpartition("-")[2])
        used = pending + sum(chunk_size for _, chunk_size, _ in chunks)
        for _, chunk_size, path in sorted(chunks):
            if used + size <= self.limit:
                return
            path.unlink(missing_ok=True)
            used -= chunk_size
