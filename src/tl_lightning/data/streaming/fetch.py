"""The files of a stream: read where they lie, or fetched into a folder that stays below a size."""

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

#: What litdata fetches from; ``local:`` treats a folder (a slow network disk) as if it were remote.
SCHEMES = ("s3://", "gs://", "azure://", "hf://", "r2://", "local:")
#: Chunks that are fetched at a time.
THREADS = 8
#: Seconds after which a fetch that has not ended never will: its process was killed.
ABANDONED = 6 * 3600
#: Times that a chunk may be evicted by another process between being fetched and being opened.
PATIENCE = 20


def litdata() -> Any:
    """Return the package litdata; raises DataError where it is absent."""
    try:
        import litdata
    except ImportError as error:
        raise DataError(
            f"streams need the package litdata, which cannot be imported ({error}); type "
            "pip install 'tl_lightning[stream]'"
        ) from error
    return litdata


def is_remote(url: str) -> bool:
    """Whether a stream must be fetched before it is read.

    >>> is_remote("/shards/photo"), is_remote("s3://bucket/photo")
    (False, True)
    """
    return "://" in url or url.startswith("local:")


def fetched_text(url: str, name: str) -> str | None:
    """Return a small text file of a stream, or None where a local folder does not hold it.

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
    """Fetch one file by litdata's downloader; raises DataError saying why it could not."""
    litdata()
    from litdata.streaming.downloader import get_downloader

    folder = remote.rpartition("/")[0]
    if not remote.startswith(SCHEMES):
        raise DataError(f"cannot fetch {remote}: valid are a folder and {', '.join(SCHEMES)}")
    try:
        # Made anew for every file: a client must not be shared with forked loader processes.
        get_downloader(folder, str(path.parent), []).download_file(remote, str(path))
    except Exception as error:  # every service has its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # no fault of the address
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot fetch {remote}: {reason}; see that it is there and that you may read it"
        ) from error
    if not path.is_file():
        raise DataError(f"cannot fetch {remote}: nothing came; see that it is there")


@dataclass(frozen=True)
class ChunkFiles:
    """The chunks of one split.

    litdata's own reader deletes a chunk as soon as another one is read, and counts on every loader
    process reading chunks of its own in one go; here all of them read a window of chunks in mixed
    order. So its downloaders and format are used, and what stays on disk is decided here: what was
    read longest ago goes first. An open file stays readable when another process removes it.

    Attributes:
        url: The split's folder, or where it is fetched from.
        names: File names of the chunks.
        sizes: Their bytes.
        root: Where fetched chunks of all streams are kept.
        folder: The folder of this split's chunks; ``url`` itself where nothing is fetched.
        limit: Most bytes below ``root``.
    """

    url: str
    names: Sequence[str]
    sizes: Sequence[int]
    root: Path
    folder: Path
    limit: int

    def open(self, chunk: int) -> BinaryIO:
        """Return an opened chunk, fetched if need be."""
        path = self.folder / self.names[chunk]
        for _ in range(PATIENCE):
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError as error:
                if not is_remote(self.url):
                    raise DataError(
                        f"chunk {path} is gone, or was never there: index.json beside it lists it"
                    ) from error
                self._get(chunk)
                continue
            except OSError as error:
                raise DataError(f"cannot open chunk {path}: {error.strerror}") from error
            if is_remote(self.url):
                with contextlib.suppress(OSError):  # evicted meanwhile; the open file remains
                    os.utime(path)
            return file
        raise DataError(
            f"chunk {path} is removed as often as it is fetched: too many processes share "
            f"{self.root}; type a larger data.cache_gb, or another data.cache_dir"
        )

    def require(self, chunks: Sequence[int]) -> None:
        """Fetch those of the chunks that are not here, several at a time."""
        if not is_remote(self.url):
            return
        lacking = [c for c in dict.fromkeys(chunks) if not (self.folder / self.names[c]).exists()]
        if len(lacking) > 1:
            with ThreadPoolExecutor(min(THREADS, len(lacking))) as pool:
                list(pool.map(self._get, lacking))

    def _get(self, chunk: int) -> None:
        """Fetch a chunk under another name, then give it its own; one process at a time."""
        path, size = self.folder / self.names[chunk], self.sizes[chunk]
        with locked(path):
            if path.exists():
                return
            with locked(self.root / "room"):
                self._make_room(size)
                draft = Path(tempfile.mkdtemp(suffix=f"-{size}.tmp", dir=self.folder))
            try:
                _fetch(f"{self.url}/{path.name}", draft / path.name)
                got = (draft / path.name).stat().st_size
                if got != size:
                    raise DataError(
                        f"{self.url}/{path.name} came with {got} bytes, but index.json says "
                        f"{size}; make the shards again"
                    )
                os.replace(draft / path.name, path)
            except OSError as error:
                raise DataError(
                    f"cannot keep chunk {path}: {error.strerror}; make room, or type "
                    "data.cache_dir=/a/larger/disk"
                ) from error
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Remove what was read longest ago until so many bytes more stay within the limit."""
        found, coming = [], 0
        for path in self.root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if path.suffix == ".bin":
                    found.append((stat.st_mtime_ns, stat.st_size, path))
                elif path.suffix != ".tmp":
                    continue
                elif time.time() - stat.st_mtime > ABANDONED:
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    coming += int(path.stem.rpartition("-")[2])
        used = coming + sum(own for _, own, _ in found)
        for _, own, path in sorted(found):
            if used + size <= self.limit:
                return
            path.unlink(missing_ok=True)
            used -= own
