"""The validator study on disk: a table, every single choice, and a figure."""

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
from tl_lightning.utils.plotting import INK, SOURCE, TARGET, picture

__all__ = ["write_regret"]

HEADINGS = ("Rule", "Floor", "Regret in a run", "Worst", "Regret in a pool", "Worst", "Spearman",
            "Collapsed chosen", "Runs", "Checkpoints")  # fmt: skip
NOTE = (
    "Regret: points of accuracy on target validation between the best checkpoint and the chosen "
    "one. In a run a rule chooses the epoch, in a pool (all runs of one data set and seed) the "
    "run and the epoch. Floor: models that are bad on the source, or predict few classes, cannot "
    "win. Collapsed: accuracy below half of source-only's (without one: below twice chance), "
    "though a better checkpoint was there. Target labels were used to measure regret, never to "
    "choose."
)


def write_regret(root: Path) -> Path:
    """Write ``regret.md``, ``regret.csv`` (a line a choice) and ``regret.png`` of a folder's runs.

    Args:
        root: Holds runs with ``track_target=true``, at any depth.

    Returns:
        The path of ``regret.md``.

    Raises:
        DataError: If there is no such run below the folder.
    """
    traces, notes = read_traces(root)
    made = choices(traces)
    names = list(dict.fromkeys(trace.data for trace in traces))
    parts = [_table(lines(traces, made))]
    for name in names if len(names) > 1 else ():
        own = [choice for choice in made if choice.trace.data == name]
        table = _table(lines([trace for trace in traces if trace.data == name], own))
        parts.append(f"## {name}\n\n{table}")
    seeds = seeds_range(sorted({trace.seed for trace in traces}))
    methods = ", ".join(dict.fromkeys(trace.name for trace in traces))
    about = f"{len(traces)} runs ({methods}) on {', '.join(names)}, seeds {seeds}."
    text = "\n\n".join(["# Choosing without target labels", about, *parts, NOTE, *notes])
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
    """Return one line a choice, with plain numbers (fractions, not per cent)."""
    columns = ["rule", "floor", "scope", "data", "seed", "name", "folder", "epoch", "accuracy",
               "best", "regret", "collapsed"]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for choice in made:
        trace = choice.trace
        own = [choice.rule, int(choice.under), choice.scope, trace.data, trace.seed]
        numbers = [f"{value:.6g}" for value in (choice.accuracy, choice.best, choice.regret)]
        place = [trace.name, trace.folder, int(trace.epoch[choice.place])]
        writer.writerow([*own, *place, *numbers, int(choice.collapsed)])
    return text.getvalue()


def _figure(made: Sequence[Choice]) -> bytes:
    """Return the PNG of regrets: a dot a choice and their mean, raw and floored apart."""
    names = list(dict.fromkeys(choice.rule for choice in made))

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        titles = {"run": "Choosing the epoch of a run", "pool": "Choosing run and epoch"}
        for ax, (scope, title) in zip(axes, titles.items(), strict=True):
            for place, name in enumerate(names):
                own = [c for c in made if c.rule == name and c.scope == scope]
                for under, colour, shift in ((False, TARGET, -0.17), (True, SOURCE, 0.17)):
                    _dots(ax, [c for c in own if c.under == under], place + shift, colour)
            ax.grid(False, axis="y")
            ax.set(title=title, xlabel="regret, points of target accuracy")
            ax.margins(x=0.06)
        axes[0].set_yticks(range(len(names)), names, color=INK)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        for label, colour in (("as it is", TARGET), ("under the floor", SOURCE)):
            axes[1].plot([], [], "D", color=colour, markersize=5.5, label=label)
        axes[1].legend(loc="lower right")

    return picture(8.6, 1.0 + 0.42 * len(names), draw)


def _dots(axes: Any, chosen: Sequence[Choice], place: float, colour: str) -> None:
    values = [100 * choice.regret for choice in chosen]
    if not values:
        return
    axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.35, markersize=4,
              markeredgewidth=0)  # fmt: skip
    axes.plot([sum(values) / len(values)], [place], "D", color=colour, markersize=5.5,
              markeredgecolor="white", markeredgewidth=0.8)  # fmt: skip
