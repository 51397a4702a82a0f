"""The self-contained page of a comparison, and its other formats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.errors import ConfigError, DataError, nearest
from tl_lightning.reporting.comparison.formats import (
    FORMATS,
    cells,
    columns,
    explanation,
    interval,
    main_metrics,
    rendered,
    verdict,
)
from tl_lightning.reporting.comparison.table import Line, Table, compared, gathered
from tl_lightning.reporting.measure import Measure
from tl_lightning.reporting.run.page import fill, inline
from tl_lightning.reporting.sweep.curves import mean_curve, sweep_curves
from tl_lightning.reporting.sweep.page import dot_plot
from tl_lightning.reporting.sweep.summary import Row
from tl_lightning.reporting.sweep.tables import failure_line
from tl_lightning.utils.files import write_text

__all__ = ["compare_runs", "sparkline"]

#: Width and height of the small plots in cells.
SPARK, FOREST = (72, 26), (96, 22)
#: Curve of a line, the first that its runs have; ``{metric}`` is that of the comparison.
CURVES = ("source/val/{metric}", "train/loss")
#: Name of a file by its format.
ENDINGS = {"html": ".html", "md": ".md", "csv": ".csv", "json": ".json", "latex": ".tex"}


def compare_runs(
    runs: Sequence[str], kind: str | None = None, out: str | None = None,
    baseline: str | None = None,
) -> tuple[Table, str, Path | None]:  # fmt: skip
    """Compare runs, and write the comparison.

    Args:
        runs: Folders of runs or sweeps.
        kind: One of ``FORMATS``; None: by the ending of ``out``, otherwise ``html``.
        out: File to write; None: ``comparison.html``, and no file for other formats.
        baseline: Name, label or folder of the baseline.

    Returns:
        The comparison, its text in this format, and the file if one was written.

    Raises:
        ConfigError: If the format or the baseline does not exist.
        DataError: If a folder contains no runs, or the file cannot be written.
    """
    kind = kind or _kind_of(out)
    if kind not in FORMATS:
        raise ConfigError(f"format={kind} is not a format; {nearest(kind, FORMATS)}")
    file = Path(out or "comparison.html").expanduser() if out or kind == "html" else None
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise DataError(
            f"cannot write out={file}: {'it' if file.is_dir() else file.absolute().parent} is "
            f"{'' if file.is_dir() else 'not '}a folder; set out=<file{ENDINGS[kind]}>"
        )
    start = Path() if file is None else file.absolute().parent
    table = compared(gathered(runs, start), start, baseline)
    text = page(table, start) if kind == "html" else rendered(table, kind)
    try:
        return table, text, None if file is None else write_text(file, text)
    except OSError as error:
        raise DataError(f"cannot write out={file}: {error.strerror}; set out=<file>") from error


def _kind_of(out: str | None) -> str:
    endings = {ending: kind for kind, ending in ENDINGS.items()}
    return endings.get(Path(out or "").suffix, "html")


def page(table: Table, start: Path) -> str:
    """Return the page of a comparison, with links relative to ``start``."""
    heads = columns(table)
    # What is the same in all lines is stated above the table.
    same = {
        name
        for name, values in (
            ("Data", {line.row.data for line in table.lines}),
            ("Selected by", {line.row.rule for line in table.lines}),
        )
        if len(values) == 1
    }
    by_data: dict[str, list[Row]] = {}
    for line in table.lines:
        by_data.setdefault(line.row.data, []).append(line.row)
    ends: dict[Measure, list[float]] = {}
    for line in table.lines:
        ends.setdefault(line.row.measure, [0.0]).extend(_ends(line))
    curves = {data: sweep_curves(start, rows) for data, rows in by_data.items()}
    plots = {data: [row for row in rows if row.target is not None]
             for data, rows in by_data.items()}  # fmt: skip
    return fill("comparison.html.j2", {
        "table": table,
        "method": explanation(table),
        "main": main_metrics(table),
        "measure": " or ".join(sorted({line.row.measure.label for line in table.lines})),
        "headings": [head for head in heads if head[0] not in same],
        "lines": [
            {
                "line": line,
                "cells": [
                    (head, text, key)
                    for head, text, key in zip(
                        heads, cells(table, line), _keys(line, heads), strict=True
                    )
                    if head[0] not in same
                ],
                "verdict": verdict(line),
                "forest": _forest(line, ends[line.row.measure]),
                "spark": _spark(line.row, start),
                "pages": [
                    (seed, os.path.join(folder, "report.html")
                     if (start / folder / "report.html").is_file() else None)
                    for seed, folder in line.row.folders.items()
                ],
            }
            for line in table.lines
        ],
        "runs": sum(len(line.row.seeds) for line in table.lines),
        "plots": {data: inline(dot_plot(rows)) for data, rows in plots.items() if rows},
        "curves": {
            data: [(name, inline(png)) for name, png in found.items()]
            for data, found in curves.items() if found
        },
        "failures": [failure_line(failure) for failure in table.failures],
    })  # fmt: skip


def _keys(line: Line, heads: Iterable[tuple[str, str]]) -> list[float | None]:
    """Return what each cell is sorted by if it is a number."""
    found: list[float | None] = []
    for name, metric in heads:
        value: float | None = None
        if metric:
            value = line.metrics[metric].mean if metric in line.metrics else None
        elif name == "Difference":
            difference = line.comparison.interval if line.comparison else None
            value = 0.0 if line.is_baseline else difference.mean if difference else None
        elif name == "Expected target":
            value = line.estimated[0] if line.estimated else None
        elif name == "Minutes":
            value = line.row.minutes
        found.append(value)
    return found


def _ends(line: Line) -> list[float]:
    """Return the difference and the ends of its interval."""
    shown = interval(line)
    difference = line.comparison.interval if line.comparison else None
    ends = [difference.mean] if difference else []
    if shown is not None and shown.low is not None and shown.high is not None:
        ends += [shown.low, shown.high]
    return ends


def _forest(line: Line, ends: Sequence[float]) -> dict[str, Any] | None:
    """Return positions of a difference and its interval on an axis that contains ``ends``."""
    difference = line.comparison.interval if line.comparison else None
    if difference is None:
        return None
    width, height = FOREST
    shown, first, last = interval(line), min(ends), max(ends)

    def x(value: float) -> float:
        return round(6 + (value - first) / ((last - first) or 1.0) * (width - 12), 1)

    low, high = (shown.low, shown.high) if shown else (None, None)
    clear = low is not None and high is not None and (low > 0 or high < 0)
    sign = "good" if line.row.measure.better(difference.mean) else "bad"
    return {
        "width": width, "height": height, "zero": x(0.0), "mean": x(difference.mean),
        "low": None if low is None else x(low), "high": None if high is None else x(high),
        "clear_sign": sign if clear and not line.row.oracle else "",
    }  # fmt: skip


def _spark(row: Row, start: Path) -> dict[str, Any] | None:
    """Return the points of a learning curve, mean over the seeds."""
    for name in CURVES:
        column = name.format(metric=row.measure.metric)
        line = mean_curve(start, row, column)
        if line is not None and len(line) > 1 and np.isfinite(line).all():
            scale, unit = (1.0, "") if column == "train/loss" else (
                row.measure.scale, row.measure.unit
            )  # fmt: skip
            first, last = (f"{scale * float(line[k]):.3g}{unit}" for k in (0, -1))
            title = f"{column} by epoch, from {first} to {last} in {len(line)} epochs"
            return {**sparkline(line.tolist()), "title": title}
    return None


def sparkline(values: Sequence[float]) -> dict[str, Any]:
    """Return the size of a small plot, the points of its line, and the last of them.

    >>> sparkline([0.0, 1.0])["points"]
    '4,22 68,4'
    """
    width, height = SPARK
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    points = [
        (
            round(4 + k / (len(values) - 1) * (width - 8), 1),
            round(height - 4 - (value - low) / span * (height - 8), 1),
        )
        for k, value in enumerate(values)
    ]
    return {
        "width": width, "height": height, "last": points[-1],
        "points": " ".join(f"{x:g},{y:g}" for x, y in points),
    }  # fmt: skip
