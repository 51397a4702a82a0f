"""The report on disk: what ``report.json`` is, and writing a file whole or not at all."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.errors import DataError

__all__ = ["SCHEMA", "read_json", "read_report", "write_bytes", "write_json", "write_text"]

SCHEMA = 1
"""Version of ``report.json``; goes up when a reader of the old one would be misled."""


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


def read_report(path: str | Path) -> dict[str, Any]:
    """Read the report of a finished run.

    Args:
        path: ``report.json`` itself or the folder it lies in.

    Returns:
        The report as plain values; ``metrics`` is flat, with fractions in [0, 1].

    Raises:
        DataError: If the file is missing, broken, of another kind or of an unknown schema.
    """
    path = Path(path)
    path = path / "report.json" if path.suffix != ".json" else path
    report = read_json(path)
    if report.get("schema") != SCHEMA:
        raise DataError(
            f"{path} has schema {report.get('schema')!r}, and this version of tl_lightning reads "
            f"schema {SCHEMA}: it was written by another version. Install the version named under "
            f"'versions' in that file (got {_written_by(report)}), or run again"
        )
    if report.get("kind") != "run":
        raise DataError(
            f"{path} is a report of kind {report.get('kind')!r}, not 'run'. "
            "Name the folder of one run: tl-report outputs/<experiment>/<run id>"
        )
    return report


def _written_by(report: Mapping[str, Any]) -> str:
    versions = report.get("versions")
    return str(versions.get("tl_lightning")) if isinstance(versions, Mapping) else "none"


def _contents(folder: Path) -> str:
    """Name what a folder holds, for an error message."""
    if not folder.is_dir():
        return "nothing (no such folder)"
    names = sorted(entry.name for entry in folder.iterdir())
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "nothing"
