"""The report on disk: what ``report.json`` is, and writing a file whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.errors import DataError
from tl_lightning.utils.files import read_json

__all__ = ["SCHEMA", "read_report"]

SCHEMA = 1
"""Version of ``report.json``; goes up when a reader of the old one would be misled."""


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
