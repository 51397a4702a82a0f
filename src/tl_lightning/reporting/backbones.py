"""Comparison of pretrained networks: table, CSV, Markdown and figure."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import kendalltau

from tl_lightning.reporting.statistics import wilson
from tl_lightning.selection.transferability import SCORES
from tl_lightning.utils.files import write_bytes, write_text
from tl_lightning.utils.plotting import INK, MUTED, SOURCE, figure_png
from tl_lightning.utils.text import csv_cell

__all__ = ["Hits", "Ranked", "agreement", "notes", "ordered", "render", "to_markdown", "write"]

#: Widths of the table and of the column of names in a terminal.
WIDTH, NAME = 120, 24
#: Fewest backbones for which a rank correlation is given.
FEWEST = 3


@dataclass(frozen=True)
class Hits:
    """Correct predictions of labelled samples.

    Attributes:
        correct: Number of them.
        total: Number of samples.
    """

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.correct, self.total)


@dataclass(frozen=True)
class Ranked:
    """What was measured of one backbone.

    Attributes:
        name: As given on the command line.
        problem: Why nothing could be measured; empty if it could.
        val: Predictions of the linear probe for the validation split.
        test: Those for the test split, or None if they were not asked for.
        scores: Scores by name, see :data:`.transferability.SCORES`.
        missing: Why a score is not available, by name.
        width: Number of features.
        parameters: Number of parameters of the network.
        speed: Samples per second that pass the network, without loading them.
        seconds: Time of each part by name: ``features``, ``probe`` and the scores.
        computed: Number of samples whose features were not stored before.
    """

    name: str
    problem: str = ""
    val: Hits | None = None
    test: Hits | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    width: int = 0
    parameters: int = 0
    speed: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    computed: int = 0

    @property
    def title(self) -> str:
        """The name with only the last part of paths.

        >>> Ranked("timm+weights=/my/net.pth+size=64").title
        'timm+weights=net.pth+size=64'
        """
        return re.sub(r"=[^+]*/", "=", self.name)


def ordered(rows: Sequence[Ranked]) -> list[Ranked]:
    """Return the rows by validation accuracy of the probe, best first; failures last."""
    return sorted(rows, key=lambda row: -1.0 if row.val is None else row.val.accuracy, reverse=True)


def agreement(rows: Sequence[Ranked]) -> dict[str, float]:
    """Return Kendall's tau-b of each score, and of the probe, with the probe's test accuracy.

    Without test accuracies, with its validation accuracy. Backbones without the score are left out;
    fewer than three, or equal values only, give no correlation.
    """
    measured = [row for row in rows if row.val is not None]
    tested = all(row.test is not None for row in measured)
    columns = {name: {row.name: row.scores.get(name) for row in measured} for name in SCORES}
    if tested:
        columns["probe"] = {row.name: _accuracy(row.val) for row in measured}
    truth = {row.name: _accuracy(row.test if tested else row.val) for row in measured}
    found = {}
    for name, values in columns.items():
        known = [key for key, value in values.items() if value is not None]
        if len(known) >= FEWEST:
            tau = float(kendalltau([values[k] for k in known], [truth[k] for k in known]).statistic)
            if tau == tau:  # NaN if all values are equal
                found[name] = tau
    return found


def _accuracy(hits: Hits | None) -> float | None:
    return None if hits is None else hits.accuracy


def _columns(rows: Sequence[Ranked]) -> list[str]:
    """Return the headings; scores that no backbone has are left out."""
    tested = any(row.test is not None for row in rows)
    scores = [score.title for name, score in SCORES.items() if any(name in r.scores for r in rows)]
    sizes = ["Width", "Size", "Per second", "Seconds"]
    return ["Backbone", "Probe (95 %)", *(["Test"] if tested else []), *scores, *sizes]


def _cells(row: Ranked, columns: Sequence[str]) -> list[str]:
    if row.val is None:
        return [row.title, *["–"] * (len(columns) - 1)]
    low, high = row.val.interval
    values = {
        "Backbone": row.title,
        "Probe (95 %)": f"{100 * row.val.accuracy:.1f} ({100 * low:.1f}–{100 * high:.1f})",
        "Test": "–" if row.test is None else f"{100 * row.test.accuracy:.1f}",
        **{
            score.title: f"{row.scores[name]:.3f}" if name in row.scores else "–"
            for name, score in SCORES.items()
        },
        "Width": f"{row.width:,}",
        "Size": f"{row.parameters / 1e6:.2f} M",
        "Per second": f"{row.speed:,.0f}",
        "Seconds": f"{sum(row.seconds.values()):.1f}",
    }
    return [values[name] for name in columns]


def render(rows: Sequence[Ranked], title: str, out: Console | None = None) -> None:
    """Print the table, best probe first, with the notes below it.

    Width is the number of features, size that of parameters; "per second" is the number of samples
    that pass the network.
    """
    fixed = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    out = out or Console(width=WIDTH if fixed else None, markup=False)
    rows, columns = ordered(rows), _columns(rows)
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(columns[0], overflow="fold", width=NAME)
    for name in columns[1:]:  # headings of two lines, to save columns
        table.add_column(name.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row in rows:
        name, *others = _cells(row, columns)
        table.add_row(Text(name.replace("+", "\n+")), *map(Text, others))
    out.print(table)
    for note in notes(rows):
        out.print(Text(note))


def notes(rows: Sequence[Ranked]) -> list[str]:
    """Return failures, unavailable scores, and how well the scores agree with the probe."""
    found = [f"{row.title}: not ranked: {row.problem}" for row in rows if row.problem]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.missing.items():
            reasons.setdefault((row.title, reason), []).append(SCORES[name].title)
    for (backbone, reason), names in reasons.items():
        found.append(f"{backbone}: {' and '.join(names)} not available: {reason}")
    taus = agreement(rows)
    if taus:
        tested = "probe" in taus
        titles = {**{name: score.title for name, score in SCORES.items()}, "probe": "validation"}
        texts = [f"{titles[name]} {value:+.2f}" for name, value in taus.items()]
        split = "test" if tested else "validation"
        found.append(f"Kendall's tau with the probe's {split} accuracy: {', '.join(texts)}")
    return found


def to_markdown(rows: Sequence[Ranked], title: str) -> str:
    """Return title, table and notes as Markdown."""
    rows, columns = ordered(rows), _columns(rows)

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    ruler = ["---", *["---:"] * (len(columns) - 1)]
    table = [line(columns), line(ruler), *(line(_cells(row, columns)) for row in rows)]
    listed = "".join(f"- {' '.join(note.split())}\n" for note in notes(rows))
    return f"# {title}\n\n" + "\n".join(table) + f"\n\n{listed}"


def _to_csv(rows: Sequence[Ranked]) -> str:
    """Return one line per backbone, accuracies as fractions."""
    records = [_record(row) for row in ordered(rows)]
    names = list(dict.fromkeys(key for record in records for key in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _record(row: Ranked) -> dict[str, Any]:
    record: dict[str, Any] = {"backbone": csv_cell(row.name), "problem": csv_cell(row.problem)}
    for name, hits in (("val", row.val), ("test", row.test)):
        low, high = (None, None) if hits is None else hits.interval
        record |= {f"{name}_accuracy": _accuracy(hits), f"{name}_low": low, f"{name}_high": high}
        record[f"{name}_samples"] = None if hits is None else hits.total
    record |= {name: row.scores.get(name) for name in SCORES}
    if row.val is not None:
        record |= {"features": row.width, "parameters": row.parameters, "per_second": row.speed}
        record |= {f"seconds_{name}": value for name, value in row.seconds.items()}
        record["computed"] = row.computed
    return record


def write(rows: Sequence[Ranked], title: str, folder: Path) -> list[Path]:
    """Write ``backbones.csv``, ``backbones.md`` and, if any was ranked, ``backbones.png``."""
    files = [
        write_text(folder / "backbones.csv", _to_csv(rows)),
        write_text(folder / "backbones.md", to_markdown(rows, title)),
    ]
    if any(row.val is not None for row in rows):
        files.append(write_bytes(folder / "backbones.png", _figure(rows, title)))
    return files


def _figure(rows: Sequence[Ranked], title: str) -> bytes:
    """Draw the accuracy of the probe against the speed of the network, with its interval."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    measured = [row for row in ordered(rows) if row.val is not None]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        points = [(row.speed, 100 * row.val.accuracy) for row in measured if row.val is not None]
        for row, (x, y) in zip(measured, points, strict=True):
            assert row.val is not None
            low, high = row.val.interval
            ends = [[max(0.0, y - 100 * low)], [max(0.0, 100 * high - y)]]
            axes.errorbar(x, y, ends, fmt="o", color=SOURCE, ecolor=MUTED, elinewidth=0.9)
        axes.set_xscale("log")
        speeds = [x for x, _ in points]
        wide = max(speeds) > 50 * min(speeds)
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.3, y=0.1)
        axes.set(xlabel="samples per second through the network (log scale)",
                 ylabel="validation accuracy of the probe (%)", title=title)  # fmt: skip
        _label(axes, [row.title for row in measured], points)

    return figure_png(7.0, 4.2, draw)


def _label(axes: Any, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Write names beside points, given from top to bottom, moved down where they would overlap."""
    size, scale = 7.5, 72 / axes.figure.dpi
    places = [tuple(scale * v for v in axes.transData.transform(point)) for point in points]
    taken: list[tuple[float, float, float]] = []  # left and right end, and height, in points
    for name, point, (x, y) in zip(names, points, places, strict=True):
        left, right, down = x + 6, x + 6 + 0.6 * size * len(name), 0.0
        while any(
            start < right and left < end and abs(height - y + down) < 1.2 * size
            for start, end, height in taken
        ):
            down += 1.0
        taken.append((left, right, y - down))
        axes.annotate(
            name, point, textcoords="offset points", xytext=(6, -down), va="center", color=INK,
            fontsize=size,
        )  # fmt: skip
