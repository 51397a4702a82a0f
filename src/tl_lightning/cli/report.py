"""The command ``tl-report``: write the page of a run or the table of a sweep."""

from __future__ import annotations

from pathlib import Path

from tl_lightning.cli.common import plain_command
from tl_lightning.errors import ConfigError, nearest

__all__ = ["report"]


def report() -> None:
    """Write the page of a run or the table of a sweep again: ``tl-report <folder>``."""
    plain_command(
        _report,
        "usage: report.py <run folder or sweep folder>\n"
        "       report.py run=<folder> | sweep=<folder>\n"
        "Writes the page of a run (report.html), or the table of all runs in a folder\n"
        "(index.html, table.md, table.csv, sweep.json). With sweep=<run folder>, the table\n"
        "compares a run with its baselines.",
    )


def _report(arguments: list[str]) -> None:
    from tl_lightning.reporting.console import report_folder

    key, _, folder = arguments[0].rpartition("=")
    if len(arguments) > 1:
        raise ConfigError(
            f"expected one folder, got {' '.join(arguments)}; run report.py sweep=<folder>"
        )
    if key in ("run", "sweep"):
        report_folder(Path(folder), as_sweep=key == "sweep")
    elif key and "/" not in key and not Path(arguments[0]).exists():
        raise ConfigError(f"{key} is not an option; {nearest(key, ('run', 'sweep'))}")
    else:
        report_folder(Path(arguments[0]))
