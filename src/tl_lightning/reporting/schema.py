"""Reader and schema version of ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.errors import DataError
from tl_lightning.utils.files import read_json
from tl_lightning.utils.text import printable_values

__all__ = ["SCHEMA", "fingerprint_of", "read_report"]

SCHEMA = 1
"""Version of ``report.json``; incremented on changes that are not backward compatible."""

#: Parts of a report whose entries are read by name or by position, by type.
_TYPES: dict[type, tuple[str, ...]] = {
    dict: ("selection", "start", "metrics", "predicted", "timing", "versions", "scale",
           "parameters", "dataset", "config"),
    list: ("notes", "warnings"),
}  # fmt: skip


def read_report(path: str | Path) -> dict[str, Any]:
    """Read the report of a finished run.

    Args:
        path: ``report.json`` or its folder.

    Returns:
        The report as plain values; ``metrics`` is flat, with fractions in [0, 1].

    Raises:
        DataError: If the file is missing, corrupt, not a run report, or of an unknown schema.
    """
    path = Path(path)
    path = path / "report.json" if path.suffix != ".json" else path
    report: dict[str, Any] = printable_values(read_json(path))
    if report.get("schema") != SCHEMA:
        raise DataError(
            f"{path} has schema {report.get('schema')!r}, but this version of tl_lightning reads "
            f"schema {SCHEMA}. Install the version of tl_lightning that wrote the file "
            f"(versions.tl_lightning: {_written_by(report)}), or run again"
        )
    if report.get("kind") != "run":
        raise DataError(
            f"{path} is a report of kind {report.get('kind')!r}, not 'run'. "
            "Pass the folder of a run: tl-report outputs/<experiment>/<run id>"
        )
    for kind, names in _TYPES.items():
        for name in names:
            if not isinstance(report.get(name) or kind(), kind):
                raise _edited(path, name, report[name])
    for name, value in (report.get("metrics") or {}).items():
        if not isinstance(value, int | float | None):
            raise _edited(path, f"metrics.{name}", value)
    return report


def _edited(path: Path, name: str, value: Any) -> DataError:
    return DataError(
        f"{path} has {name}={value!r}, which is of another type than written by a run: it was "
        "edited by hand. Restore it from a copy, or run again"
    )


def _written_by(report: Mapping[str, Any]) -> str:
    versions = report.get("versions")
    return str(versions.get("tl_lightning")) if isinstance(versions, Mapping) else "none"


def fingerprint_of(report: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of the data that a run was trained on; None if it is not known."""
    found = (report.get("dataset") or {}).get("fingerprint")
    return None if found is None else str(found)
