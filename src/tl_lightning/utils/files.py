"""Atomic file writes, JSON reading and file locks."""

from __future__ import annotations

import errno
import json
import math
import os
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tl_lightning.errors import DataError

__all__ = [
    "DAMAGED",
    "FULL",
    "UNREACHABLE",
    "full_disk_means",
    "locked",
    "read_json",
    "run_lock",
    "write_bytes",
    "write_json",
    "write_text",
]


#: Error numbers of a full disk.
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_means(problem: str) -> Iterator[None]:
    """Turn the error of a full disk into a DataError with this message."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(problem) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (file ``.<name>.lock``); other processes wait.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        DataError: If the folder is not writable.
    """
    lock = FileLock(path.parent / f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"cannot write to {path.parent}: {error.strerror}; set data.root=<writable folder> "
            "(for caches, set the environment variable TL_CACHE)"
        ) from error
    try:
        yield
    finally:
        lock.release()


#: Errors of readers of npz, npy and JSON files for missing, truncated or changed ones.
DAMAGED = (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)

#: Error numbers of an unavailable disk or mount, independent of the requested file.
UNREACHABLE = (
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.ENODEV,
)


@contextmanager
def run_lock(folder: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Lock the folder of a run or a job (file ``.lock``); yield False if another process has it.

    The operating system releases the lock when the process ends, even if it is killed. Without
    support of the file system, nothing is locked.

    Args:
        folder: The folder.
        wait_s: Seconds to wait for the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        reason = error.strerror or error
        print(f"cannot lock {folder} ({reason}): start only one process at a time there")
    try:
        yield True
    finally:
        lock.release()


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` atomically: a reader sees the old file or the new one.

    The temporary file is in the same folder, so that the rename never crosses file systems.

    Args:
        path: Final path; its folder is created if it does not exist.
        data: The complete content.

    Returns:
        The final path.

    Raises:
        OSError: If writing fails; an existing file is left unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8 to ``path`` atomically; see :func:`write_bytes`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "note.txt", "done").read_text()
    'done'
    """
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, data: Mapping[str, Any]) -> Path:
    """Write ``data`` as strict JSON to ``path`` atomically; see :func:`write_bytes`.

    Paths become strings, numpy values plain ones, and NaN and infinity null.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_json(Path(folder) / "a.json", {"loss": float("nan"), "root": Path("x")})
    ...     read_json(path)
    {'loss': None, 'root': 'x'}
    """
    return write_text(path, json.dumps(_plain(data), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """Return ``value`` converted to types that strict JSON supports."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, and 0-d tensors
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: If the file is missing, is not JSON or does not contain an object.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path.name} not found in {path.parent}: the run has not finished or this is not a "
            f"run folder (it contains {_contents(path.parent)}). Pass the folder of a finished "
            "run: tl-report outputs/<experiment>/<run id>"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error}): it is truncated or was edited by hand. "
            "Delete it and run again, or restore it from a copy"
        ) from error
    if not isinstance(data, dict):
        raise DataError(
            f"{path} must contain a JSON object, got a {type(data).__name__}: it was not written "
            "by a run. Delete it and run again"
        )
    return data


def _contents(folder: Path) -> str:
    """Return the names of the first entries of a folder, for an error message."""
    if not folder.is_dir():
        return "nothing: no such folder"
    names = sorted(entry.name for entry in folder.iterdir())
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "nothing"
