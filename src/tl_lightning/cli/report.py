"""The command ``tl-report``: write the page of a run or the table of a sweep, or compare runs."""

from __future__ import annotations

from pathlib import Path

from tl_lightning.cli.common import plain_command
from tl_lightning.cli.usage import Usage
from tl_lightning.errors import ConfigError, nearest

__all__ = ["report"]

#: Options, and those with which runs are compared.
_KEYS = ("run", "sweep", "runs", "baseline", "format", "out")
_OF_COMPARISON = ("runs", "baseline", "format", "out")


USAGE = Usage(
    (
        "report.py <run or sweep folder>",
        "report.py run=<folder> | sweep=<folder>",
        "report.py runs=[<run or sweep folder>,...] [baseline=<name or folder>] "
        "[format=html] [out=<file>]",
    ),
    "Write the page of a run (report.html), the table of a sweep (index.html, table.md, table.csv, "
    "sweep.json), or a comparison of any runs (comparison.html).",
    {
        "One folder": {
            "run": "folder of a run",
            "sweep": "folder of a sweep, or of a run to compare with its baselines",
        },
        "Comparison": {
            "runs": "[<folder>,...]: folders of runs and sweeps",
            "baseline": "model or folder that the others are compared with",
            "format": "html, md, csv, json or latex (default: html)",
            "out": "file; without it, formats other than html are printed",
        },
    },
    ("report.py outputs/sweeps/<run id>", "report.py runs=[runs/a,runs/b] format=latex"),
)


def report() -> None:
    """Write the page of a run, the table of a sweep or a comparison: ``tl-report <folder>``."""
    plain_command(_report, USAGE)


def _report(arguments: list[str]) -> None:
    given = dict(one.partition("=")[::2] for one in arguments if _is_option(one))
    if given.keys() & set(_OF_COMPARISON):
        _compare(given, arguments)
        return
    key, _, folder = arguments[0].rpartition("=")
    if len(arguments) > 1:
        raise ConfigError(
            f"expected one folder, got {' '.join(arguments)}; run report.py sweep=<folder>"
        )
    named = key in ("run", "sweep")
    if key and not named and "/" not in key and not Path(arguments[0]).exists():
        raise ConfigError(f"{key} is not an option; {nearest(key, _KEYS)}")
    from tl_lightning.reporting.console import report_folder

    if named:
        report_folder(Path(folder), as_sweep=key == "sweep")
    else:
        report_folder(Path(arguments[0]))


def _is_option(argument: str) -> bool:
    return argument.partition("=")[0] in _KEYS and "=" in argument


def _compare(given: dict[str, str], arguments: list[str]) -> None:
    """Compare the runs of ``runs=``, or of ``sweep=``."""
    for argument in arguments:
        if not _is_option(argument):
            raise ConfigError(
                f"{argument.partition('=')[0]} is not an option; "
                f"{nearest(argument.partition('=')[0], _KEYS)}"
            )
    names = [key for key in ("runs", "sweep", "run") if given.get(key)]
    if len(names) != 1:
        raise ConfigError(
            f"exactly one of runs and sweep is required, got {' and '.join(names) or 'none'}; set "
            "runs=[<folder>,...]"
        )
    from rich.console import Console

    from tl_lightning.reporting.comparison.page import compare_runs

    runs = [one.strip() for one in given[names[0]].strip("[]").split(",") if one.strip()]
    table, text, file = compare_runs(
        runs, given.get("format") or None, given.get("out") or None, given.get("baseline") or None
    )
    if file is None:
        print(text, end="")
        return
    for verdict in table.verdicts:
        Console(markup=False, highlight=False).print(verdict)
    for line in table.lines:
        for warning in line.warnings:
            print(f"warning: {line.row.label}: {warning}")
    print(f"written: {file}")
