"""Terminal output for finished runs and sweeps."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tl_lightning.config.schema import WITHOUT_CLASSES
from tl_lightning.errors import DataError
from tl_lightning.reporting.estimates import estimated_accuracy
from tl_lightning.reporting.formatting import metric_value, uses_target_labels
from tl_lightning.reporting.run.start import candidate_rows, chosen_text
from tl_lightning.reporting.run.trust import compared_text, estimate_text
from tl_lightning.reporting.run.unlabelled import describe_predicted
from tl_lightning.tasks.metrics import METRICS
from tl_lightning.utils.console import typed

__all__ = ["print_metrics", "print_run", "report_folder"]


def console() -> Console:
    """Return a console that is wide enough for tables when stdout is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 140, markup=False)


def report_folder(folder: Path, as_sweep: bool | None = None) -> None:
    """Write and print the report of a run folder or of a sweep folder.

    Args:
        folder: Folder of a run or of a sweep.
        as_sweep: Whether to treat it as a sweep; None: only if it has no ``report.json``.

    Raises:
        DataError: If the folder does not exist or contains no runs.
    """
    if not folder.is_dir():
        raise DataError(f"folder not found: {folder}; pass the folder of a run or of a sweep")
    from tl_lightning.reporting.run.page import write_page
    from tl_lightning.reporting.schema import read_report
    from tl_lightning.reporting.studies.activation_report import is_study, write_study
    from tl_lightning.reporting.sweep.estimates import with_comparisons
    from tl_lightning.reporting.sweep.page import collect, write_sweep
    from tl_lightning.reporting.sweep.summary import summarise
    from tl_lightning.reporting.sweep.tables import render

    is_run = (folder / "report.json").is_file() if as_sweep is None else not as_sweep
    if is_run:
        print_run(read_report(folder), write_page(folder))
        return
    page = write_sweep(folder)
    reports = collect(folder)
    render(summarise(with_comparisons(reports, folder)), console())
    print(f"page: {page} (with table.md, table.csv and sweep.json in the same folder)")
    if is_study(reports):
        print(f"study: {write_study(folder)}")


def print_run(report: Mapping[str, Any], page: Path, alone: bool = True) -> None:
    """Print a run's test metrics, the path of its page and the comparison with its baseline.

    Args:
        report: The run's report.
        page: The run's page, in the run's folder.
        alone: Whether to advise running a missing baseline, which in a sweep may be another job.
    """
    selection = report["selection"]
    title = f"{report['name']} on {report['data']}, seed {report['seed']}"
    print_metrics(report["metrics"], title=title, task=str(report.get("task", "classification")))
    _print_predicted(report, page.parent)
    warning = "  USES TARGET LABELS" if uses_target_labels(report) else ""
    print(
        f"selected by {selection['rule']}: {selection['description']} "
        f"({chosen_text(selection)}){warning}"
    )
    for row in candidate_rows(report):
        mark = " (kept)" if row["chosen"] else ""
        print(
            f"  {row['name']}: target {row['target']}, source {row['source']}, "
            f"score {row['score']}{mark}"
        )
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"page: {page}")
    print_verdict(report, page.parent, alone)


def _print_predicted(report: Mapping[str, Any], folder: Path) -> None:
    """Print a summary of the predictions of the domains without labels."""
    for domain, found in (report.get("predicted") or {}).items():
        text = describe_predicted(found)
        print(
            f"{domain} without labels: {text['samples']} samples predicted, mean confidence "
            f"{text['confidence']}"
        )
        never = f"; never: {text['never']}" if text["never"] else ""
        print(f"predicted classes: {text['mix']}{never}")
        estimate = estimated_accuracy(report) if domain == "target" else None
        if estimate is not None:
            print(f"expected accuracy: {estimate_text(estimate)}, estimated without labels")
            print(*filter(None, [compared_text(report)]), sep="\n", end="")
        if (folder / "predictions.csv").is_file():
            print(f"predictions: {folder / 'predictions.csv'}")


def print_verdict(report: Mapping[str, Any], folder: Path, alone: bool) -> None:
    """Print the comparison with the baseline, or how to obtain one."""
    from tl_lightning.reporting.run.context import read_baselines
    from tl_lightning.reporting.verdict import advice, run_verdict

    baselines, _ = read_baselines(folder)
    verdict, missing = run_verdict(report, baselines, folder), advice(report, baselines)
    if missing and alone:
        verdict = f"{missing['text'].removesuffix('.')}; run {typed(missing['command'])}"
    if verdict:
        print(verdict)


def print_metrics(metrics: Mapping[str, float], title: str, task: str = "classification") -> None:
    """Print test metrics, one row per domain.

    Args:
        metrics: By name, such as ``target/test/acc``.
        title: Of the table.
        task: Kind of the main task; classes have columns for all metrics, also without labels.
    """
    table = Table(title=title, title_justify="left")
    own = [key.partition("/test/")[2] for key in metrics if "/test/" in key]
    known = () if task in WITHOUT_CLASSES else METRICS
    columns = dict.fromkeys([*known, *(name for name in own if "/" not in name)])
    table.add_column("domain")
    for column in columns:
        table.add_column(column, justify="right")
    for domain in ("source", "target"):
        if any(key.startswith(f"{domain}/test/") for key in metrics):
            found = {name: metrics.get(f"{domain}/test/{name}", "–") for name in columns}
            needed = "mae" if task == "regression" else "acc"
            label = "" if f"{domain}/test/{needed}" in metrics else " (no labels)"
            table.add_row(f"{domain} test{label}", *(metric_value(*item) for item in found.items()))
    console().print(table)
    for key, value in metrics.items():
        domain, _, metric = key.partition("/test/")
        if "/" in metric:
            print(f"{domain} test, {metric.replace('/', ' ')}: {metric_value(metric, value)}")
