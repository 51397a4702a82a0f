"""Report of the validator study: Markdown table, CSV of all choices, and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_lightning.reporting.formatting import seeds_range
from tl_lightning.reporting.studies.selection_regret import Choice, Line, choices, lines
from tl_lightning.reporting.studies.selection_runs import read_traces
from tl_lightning.utils.files import write_bytes, write_text
from tl_lightning.utils.plotting import INK, SOURCE, TARGET, figure_png

__all__ = ["write_regret"]

HEADINGS = ("Rule", "Filter", "Regret in a run", "Worst", "Regret in a pool", "Worst", "Spearman",
            "Collapsed selected", "Runs", "Checkpoints")  # fmt: skip
NOTE = (
    "Regret: difference of target validation accuracy between the best and the selected "
    "checkpoint, in points. In a run, a rule selects the epoch; in a pool (all runs of one dataset "
    "and seed), the run and the epoch. Filter: the collapse filter excludes models that are bad on "
    "the source or predict few classes. Collapsed: accuracy below half of source-only's (without "
    "one: below twice chance) although a better checkpoint was available. Target labels were used "
    "to measure the regret, never for selection."
)


def write_regret(root: Path) -> Path:
    """Write ``regret.md``, ``regret.csv`` (one line per choice) and ``regret.png`` for a folder.

    Args:
        root: Contains runs with ``track_target=true``, at any depth.

    Returns:
        The path of ``regret.md``.

    Raises:
        DataError: If the folder contains no such runs.
    """
    traces, notes = read_traces(root)
    made = choices(traces)
    names = list(dict.fromkeys(trace.data for trace in traces))
    parts = [_table(lines(traces, made))]
    for name in names if len(names) > 1 else ():
        subset = [choice for choice in made if choice.trace.data == name]
        table = _table(lines([trace for trace in traces if trace.data == name], subset))
        parts.append(f"## {name}\n\n{table}")
    seeds = seeds_range(sorted({trace.seed for trace in traces}))
    methods = ", ".join(dict.fromkeys(trace.name for trace in traces))
    summary = f"{len(traces)} runs ({methods}) on {', '.join(names)}, seeds {seeds}."
    text = "\n\n".join(["# Model selection without target labels", summary, *parts, NOTE, *notes])
    write_text(root / "regret.csv", _csv(made))
    write_bytes(root / "regret.png", _figure(made))
    return write_text(root / "regret.md", text + "\n")


def _points(value: float | None) -> str:
    """Return a regret in points.

    >>> _points(0.1234), _points(None)
    ('12.3', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}"


def _table(table: Sequence[Line]) -> str:
    rows: list[list[str]] = [list(HEADINGS), ["---"] * len(HEADINGS)]
    for line in table:
        rows.append(
            [
                line.rule,
                "yes" if line.under else "no",
                _points(line.run),
                _points(line.run_worst),
                _points(line.pool),
                _points(line.pool_worst),
                "–" if line.spearman is None else f"{line.spearman:.2f}",
                f"{line.collapsed} of {line.chosen}",
                str(line.runs),
                str(line.checkpoints),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _csv(made: Sequence[Choice]) -> str:
    """Return one CSV line per choice, accuracies as fractions."""
    columns = ["rule", "filtered", "scope", "data", "seed", "name", "folder", "epoch", "accuracy",
               "best", "regret", "collapsed"]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for choice in made:
        trace = choice.trace
        key = [choice.rule, int(choice.under), choice.scope, trace.data, trace.seed]
        numbers = [f"{value:.6g}" for value in (choice.accuracy, choice.best, choice.regret)]
        checkpoint = [trace.name, trace.folder, int(trace.epoch[choice.place])]
        writer.writerow([*key, *checkpoint, *numbers, int(choice.collapsed)])
    return text.getvalue()


def _figure(made: Sequence[Choice]) -> bytes:
    """Return a PNG of regrets, one dot per choice and the mean, with and without the filter."""
    names = list(dict.fromkeys(choice.rule for choice in made))

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        titles = {"run": "Selecting the epoch of a run", "pool": "Selecting run and epoch"}
        for ax, (scope, title) in zip(axes, titles.items(), strict=True):
            for position, name in enumerate(names):
                subset = [c for c in made if c.rule == name and c.scope == scope]
                for under, colour, shift in ((False, TARGET, -0.17), (True, SOURCE, 0.17)):
                    _dots(ax, [c for c in subset if c.under == under], position + shift, colour)
            ax.grid(False, axis="y")
            ax.set(title=title, xlabel="regret, points of target accuracy")
            ax.margins(x=0.06)
        axes[0].set_yticks(range(len(names)), names, color=INK)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        for label, colour in (("without filter", TARGET), ("with collapse filter", SOURCE)):
            axes[1].plot([], [], "D", color=colour, markersize=5.5, label=label)
        axes[1].legend(loc="lower right")

    return figure_png(8.6, 1.0 + 0.42 * len(names), draw)


def _dots(axes: Any, chosen: Sequence[Choice], position: float, colour: str) -> None:
    values = [100 * choice.regret for choice in chosen]
    if not values:
        return
    axes.plot(values, [position] * len(values), "o", color=colour, alpha=0.35, markersize=4,
              markeredgewidth=0)  # fmt: skip
    axes.plot([sum(values) / len(values)], [position], "D", color=colour, markersize=5.5,
              markeredgecolor="white", markeredgewidth=0.8)  # fmt: skip
