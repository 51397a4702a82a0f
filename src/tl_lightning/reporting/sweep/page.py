"""Report of a sweep: collects the runs of a folder and writes tables, JSON and a page."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from tl_lightning.errors import DataError
from tl_lightning.reporting.measure import ACCURACY
from tl_lightning.reporting.run.page import fill, inline
from tl_lightning.reporting.schema import read_report
from tl_lightning.reporting.sweep.curves import sweep_curves
from tl_lightning.reporting.sweep.estimates import with_comparisons
from tl_lightning.reporting.sweep.held_out import (
    HeldOut,
    held_out,
    held_out_cells,
    held_out_csv,
    held_out_json,
)
from tl_lightning.reporting.sweep.summary import Row, Summary, summarise
from tl_lightning.reporting.sweep.tables import (
    caption,
    cells,
    columns,
    failure_line,
    to_csv,
    to_json,
    to_markdown,
)
from tl_lightning.utils.files import read_json, write_json, write_text
from tl_lightning.utils.plotting import INK, LINES, MUTED, TARGET, figure_png, short
from tl_lightning.utils.text import printable

__all__ = ["collect", "write_sweep"]

HELD_OUT = (
    "Test accuracy in % on the domain that was not seen in training, mean ± standard deviation "
    "over seeds. Mean and worst are over the domains, for each seed."
)
STARTED = ("config.yaml", "metrics.csv", ".hydra", "checkpoints")
"""Entries that identify a job folder that has neither ``report.json`` nor ``failed.json``."""


def collect(folder: str | Path) -> list[dict[str, Any]]:
    """Return the reports of all runs below a folder, including baselines.

    Every report gets a ``folder`` (relative). A job that failed, has an unreadable report, or
    started without writing one is an entry ``{"kind": "failed", "folder", "error", "overrides"}``.

    Raises:
        DataError: If the folder does not exist or contains no jobs.
    """
    root = Path(folder)
    entries = []
    for path in _folders(root):
        entry = _entry(path)
        if entry is not None:
            entries.append({**entry, "folder": path.relative_to(root).as_posix()})
    if not entries:
        state = "no report.json below it" if root.is_dir() else "no such folder"
        raise DataError(
            f"no runs found in {root} ({state}): a sweep folder contains one folder per job. "
            "Pass the folder that tl-train -m wrote: tl-report outputs/<experiment>"
        )
    return entries


def _folders(root: Path) -> list[Path]:
    """Return ``root`` and all folders below it, sorted, without hidden ones and checkpoints."""
    found = []
    for name, below, _ in os.walk(root):
        below[:] = sorted(d for d in below if not d.startswith(".") and d not in STARTED)
        found.append(Path(name))
    return found


def _entry(path: Path) -> dict[str, Any] | None:
    """Return the report or failure of the job in a folder; None if it is not a job folder."""
    try:
        if (path / "failed.json").is_file():
            failed = read_json(path / "failed.json")
            message = str(failed.get("error", "failed without an error message"))
            overrides = failed.get("overrides")
            return _failed(message, overrides if isinstance(overrides, list) else [])
        if (path / "report.json").is_file():
            return read_report(path)
    except DataError as error:
        return _failed(str(error), _overrides(path))
    if any((path / name).exists() for name in STARTED):
        message = "started but has no report.json: it is still running or was killed"
        return _failed(message, _overrides(path))
    return None


def _failed(error: str, overrides: list[str]) -> dict[str, Any]:
    return {
        "kind": "failed",
        "error": printable(error),
        "overrides": [printable(str(one)) for one in overrides],
    }


def _overrides(path: Path) -> list[str]:
    """Return the overrides that Hydra saved for a job (a YAML list of plain strings)."""
    file = path / ".hydra" / "overrides.yaml"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [line[2:].strip().strip("'\"") for line in lines if line.startswith("- ")]


def write_sweep(folder: str | Path) -> Path:
    """Write ``table.md``, ``table.csv``, ``sweep.json`` and the self-contained ``index.html``.

    Args:
        folder: Contains the runs of a sweep, at any depth.

    Returns:
        The path of ``index.html``.

    Raises:
        DataError: If the folder contains no runs.
    """
    root = Path(folder)
    reports = with_comparisons(collect(root), root)
    summary, tables = summarise(reports), held_out(reports)
    write_text(root / "table.md", _held_out_markdown(tables) + to_markdown(summary))
    write_text(root / "table.csv", to_csv(summary))
    write_json(root / "sweep.json", {**to_json(summary), "held_out": held_out_json(tables)})
    if tables:
        write_text(root / "leave_one_out.csv", held_out_csv(tables))
    plots = {data: inline(dot_plot(rows)) for data, rows in _by_data(summary).items() if rows}
    heads = columns(summary.rows)
    names = dict.fromkeys(row.data for row in summary.rows)
    values = {
        "title": f"Sweep on {', '.join(names)}" if names else "Sweep",
        "folder": root.resolve().name,
        "summary": summary,
        "held_out_note": HELD_OUT,
        "held_out": [(table.data, *held_out_cells(table)) for table in tables],
        "headings": heads,
        "rows": [(row, cells(row, [name for name, _ in heads])) for row in summary.rows],
        "plots": plots,
        "curves": {
            data: [(name, inline(png)) for name, png in sweep_curves(root, found).items()]
            for data, found in _by_data(summary).items()
        },
        "failures": [failure_line(failure) for failure in summary.failures],
        "caption": caption(summary.rows),
        "measure": summary.rows[0].measure if summary.rows else ACCURACY,
    }
    return write_text(root / "index.html", fill("sweep.html.j2", values))


def _held_out_markdown(tables: list[HeldOut]) -> str:
    """Return the tables of held-out domains as Markdown; empty without any."""
    text = ""
    for table in tables:
        heads, rows = held_out_cells(table)
        ruler = ["---", *["---:"] * (len(heads) - 3), "---", "---"]
        lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ruler, *rows)]
        title = f"## Leave one domain out: {table.data}"
        text += "\n\n".join([title, "\n".join(lines), HELD_OUT, ""])
    return text + ("## All runs\n\n" if text else "")


def _by_data(summary: Summary) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in summary.rows:
        if row.target is not None:
            rows.setdefault(row.data, []).append(row)
    return rows


def dot_plot(rows: list[Row]) -> bytes:
    """Return a PNG of target accuracy: one dot per seed, the mean and its 95 % interval.

    Args:
        rows: Rows of one dataset, all with a target accuracy. The mean of the first source-only
            row is drawn as a vertical line.
    """
    measure = rows[0].measure
    scale = measure.scale

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.grid(False, axis="y")
        base = [row.target.mean for row in rows if row.name == "source_only" and row.target]
        if base:
            axes.axvline(scale * base[0], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
            axes.annotate("source-only", (scale * base[0], 1), xycoords=axes.get_xaxis_transform(),
                          xytext=(0, 3), textcoords="offset points", ha="center", fontsize=7.5,
                          color=MUTED)  # fmt: skip
        for position, row in enumerate(rows):
            _draw_row(axes, position, row)
        names = [_two_lines(row) for row in rows]
        axes.set_yticks(range(len(rows)), names, color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_formatter("{x:g}" + measure.unit)
        axes.margins(x=0.06)
        axes.set_xlabel(f"target test {measure.label}")

    return figure_png(7.2, 0.9 + 0.38 * max(len(rows), 2), draw)


def _two_lines(row: Row) -> str:
    """Return the name of a row and, on a second line, the settings that identify it."""
    settings = short(row.label.removeprefix(row.name).strip(), 48)
    return row.name + (" *" if row.oracle else "") + (f"\n{settings}" if settings else "")


def _draw_row(axes: Any, position: int, row: Row) -> None:
    target = row.target
    colour = TARGET if row.oracle else LINES[0]
    scale, most = row.measure.scale, math.inf if row.measure.lower_is_better else 1.0
    values = [scale * value for value in row.target_by_seed.values()]
    axes.plot(values, [position + 0.17] * len(values), "o", color=colour, alpha=0.4, markersize=4,
              markeredgewidth=0)  # fmt: skip
    if target is None:
        return
    if target.low is not None and target.high is not None:
        ends = [scale * max(target.low, 0.0), scale * min(target.high, most)]
        axes.plot(ends, [position - 0.08] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([scale * target.mean], [position - 0.08], "D", color=colour, markersize=5.5,
              markeredgecolor="white", markeredgewidth=0.8)  # fmt: skip
