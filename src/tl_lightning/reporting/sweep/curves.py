"""Learning curves of the configurations of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.errors import DataError
from tl_lightning.reporting.artifacts import Array, read_curves
from tl_lightning.reporting.sweep.summary import Row
from tl_lightning.utils.plotting import LINES, figure_png, short

__all__ = ["mean_curve", "sweep_curves"]

#: Column of ``metrics.csv`` by title, and whether its values are fractions.
PANELS = {
    "Validation accuracy on the source": ("source/val/acc", True),
    "Validation error on the source (mean absolute)": ("source/val/mae", False),
    "Validation loss on the source": ("source/val/loss", False),
    "Training loss": ("train/loss", False),
    "Information maximisation on the target": ("target/val/im", False),
}


def sweep_curves(root: Path, rows: Sequence[Row]) -> dict[str, bytes]:
    """Return a PNG by title, with a line for each configuration.

    Args:
        root: Folder of the sweep.
        rows: Rows of one dataset; the first eight with curves are drawn.
    """
    figures = {}
    for title, (column, fraction) in PANELS.items():
        lines = {row.label: mean_curve(root, row, column) for row in rows}
        drawn = [(name, line) for name, line in lines.items() if line is not None][: len(LINES)]
        if any(len(line) > 1 for _, line in drawn):
            figures[title] = _draw(title, drawn, 100 if fraction else 1)
    return figures


def mean_curve(root: Path, row: Row, column: str) -> Array | None:
    """Return the mean of a column over the seeds by epoch; None if no run has it."""
    found = []
    for folder in row.folders.values():
        try:
            series = read_curves(root / folder / "metrics.csv").get(column)
        except DataError:
            continue  # the page of that run says what is wrong
        if series is not None:
            found.append(series.per_epoch()[1])
    if not found:
        return None
    length = min(map(len, found))
    mean: Array = np.mean([values[:length] for values in found], axis=0)
    return mean


def _draw(title: str, lines: Sequence[tuple[str, Array]], scale: float) -> bytes:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for colour, (name, line) in zip(LINES, lines, strict=False):
            few = {"marker": "o", "markersize": 3} if len(line) < 4 else {}
            epochs = np.arange(1, len(line) + 1)
            axes.plot(epochs, scale * line, color=colour, label=short(name, 40), **few)
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
        if scale == 100:
            axes.yaxis.set_major_formatter("{x:g} %")
        figure.legend(loc="outside lower left", ncols=3)

    return figure_png(4.6, 3.2 + 0.1 * len(lines), draw)
