"""The command ``tl-report``."""

from __future__ import annotations

from pathlib import Path

from tl_lightning.cli.common import plain_command
from tl_lightning.errors import ConfigError, nearest

__all__ = ["report"]


def report() -> None:
    """Write a run's page or a sweep's table anew: ``tl-report <folder>``."""
    plain_command(
        _report,
        "usage: report.py <run folder or sweep folder>\n"
        "       report.py run=<folder> | sweep=<folder>\n"
        "Writes the page of a run (report.html), or the table of all runs below a folder\n"
        "(index.html, table.md, table.csv, sweep.json). sweep= makes a table of a run and its\n"
        "baselines too.",
    )


def _report(arguments: list[str]) -> None:
    from tl_lightning.reporting.console import report_folder

    key, _, folder = arguments[0].rpartition("=")
    if len(arguments) > 1:
        raise ConfigError(
            f"one folder at a time, got {' '.join(arguments)}; type report.py sweep=<folder>"
        )
    if key in ("run", "sweep"):
        report_folder(Path(folder), as_sweep=key == "sweep")
    elif key and "/" not in key and not Path(arguments[0]).exists():
        raise ConfigError(f"{key} is no option; {nearest(key, ('run', 'sweep'))}")
    else:
        report_folder(Path(arguments[0]))
