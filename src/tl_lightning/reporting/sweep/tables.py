"""Sweep tables as Markdown, CSV, JSON and terminal output."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tl_lightning.config.schema import BASELINES
from tl_lightning.reporting.formatting import seeds_range
from tl_lightning.reporting.measure import ACCURACY, Measure
from tl_lightning.reporting.run.trust import estimate_text
from tl_lightning.reporting.statistics import Interval
from tl_lightning.reporting.sweep.compare import Comparison
from tl_lightning.reporting.sweep.multitask import ALONE, figure, headings
from tl_lightning.reporting.sweep.summary import Failure, Row, Summary
from tl_lightning.utils.text import csv_cell

__all__ = [
    "caption",
    "cells",
    "columns",
    "failure_line",
    "render",
    "to_csv",
    "to_json",
    "to_markdown",
]

HEADINGS = (
    *("Method", "Data", "Seeds", "Target", "Source"),
    *(f"vs {name}" for name in BASELINES.values()),
    *("Selected by", "Minutes"),
)
#: Heading of a column that only sweeps with an unlabelled target have.
ESTIMATED = "Estimated target"
#: Heading of a column with the models that these estimates were compared with.
COMPARED = "Compared with"
SIDES = ("left", "left", "left", "right", "right", "right", "right", "left", "right")


def mean_text(interval: Interval | None, measure: Measure = ACCURACY) -> str:
    """Return mean and standard deviation, of fractions in percent.

    >>> mean_text(Interval(0.6128, 0.021, 0.5, 0.7, 3)), mean_text(None)
    ('61.3 ± 2.1', '–')
    """
    if interval is None:
        return "–"
    spread = "" if interval.std is None else f" ± {measure.spread(interval.std)}"
    return f"{measure.number(interval.mean)}{spread}"


def gain_text(comparison: Comparison | None, measure: Measure = ACCURACY) -> str:
    """Return a paired difference in points, with its interval if it has one."""
    if comparison is None:
        return ""
    interval = comparison.interval
    if interval is None:
        return "no pairs"
    if interval.low is None or interval.high is None:
        return f"{measure.difference(interval.mean)} ({comparison.verdict})"
    low, high = (measure.number(end) for end in (interval.low, interval.high))
    return f"{measure.difference(interval.mean)} ({low} to {high})"


def columns(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return heading and alignment of every column, including those of auxiliary tasks."""
    rows = list(rows)
    extra = headings(row.aux_tasks for row in rows)
    extra += [ESTIMATED] if any(row.estimated for row in rows) else []
    extra += [COMPARED] if any(row.compared_with for row in rows) else []
    extra += [f"vs {ALONE}"] if any(ALONE in row.comparisons for row in rows) else []
    return [*zip(HEADINGS, SIDES, strict=True), *((name, "right") for name in extra)]


def cells(row: Row, names: Iterable[str] = ()) -> list[str]:
    """Return a row as text.

    Args:
        row: One configuration.
        names: All headings of :func:`columns`; if empty, columns of auxiliary tasks are left out.
    """
    extra = [
        estimate_text(row.estimated)
        if name == ESTIMATED
        else ", ".join(row.compared_with) or "–"
        if name == COMPARED
        else gain_text(row.comparisons.get(ALONE), row.measure)
        if name.startswith("vs ")
        else figure(name, row.aux_tasks.get(name))
        for name in list(names)[len(HEADINGS) :]
    ]
    return [
        row.label + (" *" if row.oracle else ""),
        row.data,
        seeds_range(row.seeds),
        mean_text(row.target, row.measure),
        mean_text(row.source, row.measure),
        *(
            gain_text(row.comparisons.get(name), row.measure) if row.target else "–"
            for name in BASELINES
        ),
        row.rule,
        "–" if row.minutes is None else f"{row.minutes:.1f}",
        *extra,
    ]


def failure_line(failure: Failure) -> str:
    """Return a failed job as one line.

    >>> failure_line(Failure("3", "lost", ("seed=1",)))
    '3: lost (seed=1)'
    """
    overrides = f" ({' '.join(failure.overrides)})" if failure.overrides else ""
    return f"{failure.folder}: {failure.error}{overrides}"


def to_markdown(summary: Summary) -> str:
    """Return the table, verdicts, failures and notes as Markdown."""

    def line(texts: list[str]) -> str:
        return "| " + " | ".join(_one_line(text).replace("|", "\\|") for text in texts) + " |"

    names, sides = map(list, zip(*columns(summary.rows), strict=True))
    ruler = ["---:" if side == "right" else "---" for side in sides]
    parts = [line(names), line(ruler), *(line(cells(row, names)) for row in summary.rows)]
    text = "\n".join(parts) + f"\n\n{caption(summary.rows)}\n"
    lists = {
        "Verdicts": summary.verdicts,
        "Failed or missing": tuple(map(failure_line, summary.failures)),
        "Notes": summary.notes,
    }
    for heading, items in lists.items():
        if items:
            text += (
                f"\n## {heading}\n\n" + "\n".join(f"- {_one_line(item)}" for item in items) + "\n"
            )
    return text


def caption(rows: Sequence[Row], domain: str = "target") -> str:
    """Return what the figures of a table are, whose differences are those of a domain."""
    if any(row.measure.lower_is_better for row in rows):
        return (
            "Mean absolute error in the unit of the labels (lower is better), mean ± standard "
            f"deviation over seeds; differences of the {domain}'s error, paired by seed, with the "
            "95 % Student t interval."
        )
    names = {row.measure.label for row in rows} or {"accuracy"}
    name = " or ".join(sorted(names))
    return (
        f"{name[0].upper()}{name[1:]} in %, mean ± standard deviation over seeds; differences of "
        f"{domain} {name} in points, paired by seed, with the 95 % Student t interval."
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def to_csv(summary: Summary) -> str:
    """Return the summary as CSV: one line per row, accuracies as fractions."""
    buffer = io.StringIO()
    rows = [_record(row) for row in summary.rows]
    names = list(dict.fromkeys(key for row in rows for key in row))
    names = names or ["name", "label", "data", "group"]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _record(row: Row) -> dict[str, Any]:
    names = ("name", "label", "data", "group")
    record: dict[str, Any] = {key: csv_cell(str(getattr(row, key))) for key in names}
    record |= {"n": len(row.seeds), "seeds": " ".join(map(str, row.seeds))}
    for domain, interval in (("target", row.target), ("source", row.source)):
        record[f"{domain}_mean"] = interval.mean if interval else None
        record[f"{domain}_std"] = interval.std if interval else None
    record |= {"rule": row.rule, "uses_target_labels": row.oracle, "minutes": row.minutes}
    for name in BASELINES:
        comparison = row.comparisons.get(name)
        values = comparison.interval if comparison else None
        for key in ("mean", "low", "high", "n"):
            record[f"vs_{name}_{key}"] = getattr(values, key) if values else None
        record[f"vs_{name}_verdict"] = comparison.verdict if comparison else None
    for name, value in zip(("value", "low", "high"), row.estimated or (), strict=False):
        record[f"target_estimated_{name}"] = value
    if row.compared_with:
        record["target_compared_with"] = csv_cell(" ".join(row.compared_with))
    for name, interval in row.aux_tasks.items():
        record |= {f"{name}_mean": interval.mean, f"{name}_std": interval.std}
    if (alone := row.comparisons.get(ALONE)) is not None:
        values = alone.interval
        for key in ("mean", "low", "high", "n"):
            record[f"vs_alone_{key}"] = getattr(values, key) if values else None
        record["vs_alone_verdict"] = alone.verdict
    return record


def to_json(summary: Summary) -> dict[str, Any]:
    """Return the summary as plain values, with intervals as dicts."""

    def to_plain(value: Any) -> Any:
        if isinstance(value, Interval):
            return value._asdict()
        if isinstance(value, dict):
            return {str(key): to_plain(item) for key, item in value.items()}
        return [to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    plain = {key: to_plain(value) for key, value in asdict(summary).items()}
    return {"schema": 1, "kind": "sweep", **plain}


def render(summary: Summary, console: Console | None = None) -> None:
    """Print the table, verdicts, failures and notes.

    Args:
        summary: Result of :func:`tl_lightning.reporting.sweep.summary.summarise`.
        console: Where to print; the terminal by default.
    """
    console = console or Console(markup=False)
    if summary.rows:
        console.print(_terminal_table(summary.rows, narrow=console.width < 110))
    for verdict in summary.verdicts:
        console.print(Text(verdict))
    for failure in summary.failures:
        console.print(Text(f"no result: {failure_line(failure)}", style="red"))
    for note in summary.notes:
        console.print(Text(note, style="dim"))


def _terminal_table(rows: tuple[Row, ...], narrow: bool) -> Table:
    """Return the table without constant or empty columns and, if narrow, without minor ones."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))
    heads = columns(rows)
    names = [name for name, _ in heads]
    table_columns = [
        (name, side, *texts)
        for (name, side), *texts in zip(heads, *(cells(row, names) for row in rows), strict=True)
    ]
    shown = [c for c in table_columns if c[0] not in ("Data", "Selected by") or len(set(c[2:])) > 1]
    shown = [c for c in shown if not set(c[2:]) <= {"", "–"}]
    if narrow:
        shown = [c for c in shown if c[0] not in ("Source", "Selected by", "Minutes")]
    for heading, side, *_ in shown:
        table.add_column(
            heading.replace("vs ", "vs\n"),
            justify="right" if side == "right" else "left",
            no_wrap=heading != "Method",
            overflow="fold",
        )
    for texts in zip(*(column[2:] for column in shown), strict=True):
        # The interval goes below its difference to save width.
        table.add_row(*(Text(text.replace(" (", "\n(")) for text in texts))
    return table
