"""Files that are written whole or not at all, and locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tl_lightning.errors import DataError

__all__ = [
    "AWAY",
    "alone_in",
    "held",
    "locked",
    "read_json",
    "write_bytes",
    "write_json",
    "write_text",
]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time work on ``path``; the others wait (a file ``.<name>.lock``).

    Raises:
        DataError: If the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("a")
    except OSError as error:
        raise DataError(
            f"cannot write to {path.parent}: {error.strerror}; set data.root= (or TL_CACHE for "
            "what is built) to a folder that you may write to"
        ) from error
    with lock:
        if sys.platform != "win32":  # No flock there: two processes may fetch the same file twice.
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)  # Released when the file closes, also by a kill.
        yield


#: Errors of a disk or mount that does not answer, whatever file was asked for.
AWAY = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a job's folder while inside; False if another process has it.

    The system lets go of it when the process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                yield False
                return
            print(f"no locks in {folder} ({error.strerror}): start a sweep once at a time there")
        yield True


@contextlib.contextmanager
def alone_in(folder: Path, wait_s: float = 10.0) -> Iterator[bool]:
    """Hold a single run's folder while inside, leaving no file; False if another process has it.

    Args:
        folder: Of the run.
        wait_s: Loader processes of a run that was killed still have its folder for some seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place, until = os.open(folder, os.O_RDONLY), time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    break  # no locks there, or none on folders
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.2)
            else:
                break
        yield True
    finally:
        os.close(place)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` under ``path`` atomically: a reader sees the old file or the new one.

    The temporary file lies beside the final one, so that the rename never crosses file systems.

    Args:
        path: Final name; its folder is made when absent.
        data: The whole content.

    Returns:
        The final path.

    Raises:
        OSError: If the disk refuses; a file that was there before is left as it was.
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
    """Write ``text`` as UTF-8 under ``path`` atomically; see :func:`write_bytes`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "note.txt", "done").read_text()
    'done'
    """
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, data: Mapping[str, Any]) -> Path:
    """Write ``data`` as strict JSON under ``path`` atomically; see :func:`write_bytes`.

    Paths become strings, numpy values plain ones, and NaN or infinity null (JSON has neither).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_json(Path(folder) / "a.json", {"loss": float("nan"), "root": Path("x")})
    ...     read_json(path)
    {'loss': None, 'root': 'x'}
    """
    return write_text(path, json.dumps(_plain(data), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """Return ``value`` with only what strict JSON can hold."""
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
        DataError: If the file is missing, is not JSON or holds something else than an object.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"there is no {path.name} in {path.parent}: the run has not finished or this is not "
            f"a run folder; it holds {_contents(path.parent)}. Name the folder of a finished run: "
            "tl-report outputs/<experiment>/<run id>"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error}): it was cut short or edited by hand. "
            "Delete it and run again, or restore it from a copy"
        ) from error
    if not isinstance(data, dict):
        raise DataError(
            f"{path} holds a JSON {type(data).__name__} where an object was expected: it was not "
            "written by a run. Delete it and run again"
        )
    return data


def _contents(folder: Path) -> str:
    """Name what a folder holds, for an error message."""
    if not folder.is_dir():
        return "nothing (no such folder)"
    names = sorted(entry.name for entry in folder.iterdir())
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "nothing"
