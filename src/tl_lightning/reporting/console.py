"""What is printed and written after a run and after a sweep."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tl_lightning.errors import DataError
from tl_lightning.reporting.formatting import metric_value, uses_target_labels

__all__ = ["print_metrics", "print_run", "report_folder"]


def console() -> Console:
    """Return a console that does not break tables when the output is a file."""
    return Console(width=None if sys.stdout.isatty() else 140)


def report_folder(folder: Path, as_sweep: bool | None = None) -> None:
    """Write the page of a run folder, or the table of all runs below a folder, and print it.

    Args:
        folder: Of a run or of a sweep.
        as_sweep: Which of them; None: what lies there says so.

    Raises:
        DataError: If the folder does not exist, or holds no run.
    """
    if not folder.is_dir():
        raise DataError(f"no folder at {folder}; type the path of a run's or a sweep's folder")
    from tl_lightning.reporting.run.page import write_page
    from tl_lightning.reporting.schema import read_report
    from tl_lightning.reporting.studies.activation_report import is_study, write_study
    from tl_lightning.reporting.sweep.page import collect, write_sweep
    from tl_lightning.reporting.sweep.summary import summarise
    from tl_lightning.reporting.sweep.tables import render

    here = (folder / "report.json").is_file()
    if here if as_sweep is None else not as_sweep:
        print_run(read_report(folder), write_page(folder))
        return
    page = write_sweep(folder)
    render(summarise(collect(folder)), console())
    print(f"page: {page} (also table.md, table.csv and sweep.json beside it)")
    if is_study(collect(folder)):
        print(f"study: {write_study(folder)}")


def print_run(report: Mapping[str, Any], page: Path, alone: bool = True) -> None:
    """Print a run's test figures, where its page lies, and whether it helped.

    Args:
        report: The run's report.
        page: Its page, in the run's folder.
        alone: Whether to say so if there is no baseline; a sweep may train it in another job.
    """
    selection = report["selection"]
    title = f"{report['name']} on {report['data']}, seed {report['seed']}"
    print_metrics(report["metrics"], title=title)
    peeks = "  USES TARGET LABELS" if uses_target_labels(report) else ""
    print(
        f"selected by {selection['rule']}: {selection['words']} "
        f"(epoch {selection['epoch']}, counted from 0){peeks}"
    )
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"page: {page}")
    print_verdict(report, page.parent, alone)


def print_verdict(report: Mapping[str, Any], folder: Path, alone: bool) -> None:
    """Print whether the run helped over its baselines, or what to type to find out."""
    from tl_lightning.reporting.run.context import read_bracket
    from tl_lightning.reporting.verdict import advice, run_verdict

    bracket, _ = read_bracket(folder)
    verdict, missing = run_verdict(report, bracket), advice(report, bracket)
    if missing and alone:
        verdict = f"{missing['text'].removesuffix('.')}; type {missing['command']}"
    if verdict:
        print(verdict)


def print_metrics(metrics: Mapping[str, float], title: str) -> None:
    """Print test metrics, a row a domain."""
    table = Table(title=title, title_justify="left")
    columns = ("acc", "precision", "recall", "f1")
    table.add_column("domain")
    for column in columns:
        table.add_column(column, justify="right")
    for role in ("source", "target"):
        if f"{role}/test/acc" in metrics:
            values = (metrics[f"{role}/test/{column}"] for column in columns)
            table.add_row(f"{role} test", *(f"{100 * value:.1f} %" for value in values))
    console().print(table)
    for key, value in metrics.items():
        domain, _, metric = key.partition("/test/")
        if "/" in metric:
            print(f"{domain} test, {metric.replace('/', ' ')}: {metric_value(metric, value)}")
