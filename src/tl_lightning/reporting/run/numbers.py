"""Predicted numbers on the page of a run: errors with intervals, and predictions against labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tl_lightning.reporting.artifacts import Array
from tl_lightning.reporting.number_metrics import NUMBER_METRICS
from tl_lightning.utils.plotting import INK, SOURCE, TARGET, figure_png, short

__all__ = ["describe_numbers", "number_figures"]

COLOURS = {"target": TARGET, "source": SOURCE}
#: Outputs whose predictions are drawn.
DRAWN = 6
#: Size of a panel in inches.
WIDTH, HEIGHT = 4.4, 3.7


def describe_numbers(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the tables of the section and the names of its figures; None without numbers.

    ``tables`` has one for each metric: its ``label`` and ``rows`` of the name of an output and one
    text for each of ``domains``. ``figures`` are pairs of file stem and description, two for each
    output and domain; ``left_out`` is the number of outputs that are not drawn.
    """
    found = report.get("numbers")
    if not isinstance(found, Mapping):
        return None
    domains = [domain for domain in COLOURS if domain in found]
    names = [str(name) for name in found.get("names") or ()]
    if not domains or not names:
        return None
    rows = [
        {
            "name": name if position == 0 else "",
            "metric": label,
            "cells": [_cell((found[domain]["metrics"].get(name) or {}).get(metric))
                      for domain in domains],
        }
        for name in names
        for position, (metric, label) in enumerate(NUMBER_METRICS.items())
    ]  # fmt: skip
    figures = [
        (f"{kind}_{domain}_{number}", f"{text} of {name}, {domain}")
        for number, name in enumerate(names[:DRAWN])
        for domain in domains
        for kind, text in (("predicted", "Predictions against labels"), ("residual", "Errors"))
    ]
    return {
        "domains": domains,
        "several": len(names) > 1,
        "rows": rows,
        "figures": figures,
        "left_out": max(0, len(names) - DRAWN),
    }


def number_figures(report: Mapping[str, Any]) -> dict[str, bytes]:
    """Return PNGs by file stem: predictions against labels, and errors against predictions."""
    images = {}
    for domain, number, name, true, predicted in _points(report):
        title = f"{domain.capitalize()}: {short(name, 20)}"
        colour = COLOURS[domain]
        images[f"predicted_{domain}_{number}"] = _predicted(title, true, predicted, colour)
        images[f"residual_{domain}_{number}"] = _residual(title, true, predicted, colour)
    return images


def _cell(value: Any) -> str:
    """Return a metric with its interval as text.

    >>> _cell([0.51234, 0.4, 0.61]), _cell([1234.5, None, None]), _cell(None)
    ('0.512 (0.400 to 0.610)', '1234', '–')
    """
    if not value or value[0] is None:
        return "–"
    # Three digits, or all of those before the point, with the zeros at the end.
    texts = [
        f"{x:.0f}" if abs(x) >= 100 else f"{x:#.3g}".rstrip(".") for x in value if x is not None
    ]
    return texts[0] if len(texts) < 3 else f"{texts[0]} ({texts[1]} to {texts[2]})"


def _points(report: Mapping[str, Any]) -> Iterator[tuple[str, int, str, Array, Array]]:
    """Yield domain, number and name of an output, its labels and its predictions."""
    found = report.get("numbers") or {}
    names = (found.get("names") or ())[:DRAWN]
    for domain in COLOURS:
        points = (found.get(domain) or {}).get("points") or {}
        pairs = zip(points.get("true") or (), points.get("predicted") or (), strict=True)
        for number, (name, pair) in enumerate(zip(names, pairs, strict=False)):
            true, predicted = (np.asarray(values, dtype=float) for values in pair)
            if len(true):
                yield domain, number, str(name), true, predicted


def _predicted(title: str, true: Array, predicted: Array, colour: str) -> bytes:
    low, high = (float(end) for end in _range(np.concatenate([true, predicted])))

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot([low, high], [low, high], color=INK, linewidth=1.0, linestyle=(0, (4, 3)),
                  label="equal")  # fmt: skip
        _dots(axes, true, predicted, colour)
        axes.set(xlabel="true", ylabel="predicted", title=title, xlim=(low, high),
                 ylim=(low, high))  # fmt: skip
        _legend(axes)

    return figure_png(WIDTH, HEIGHT, draw)


def _residual(title: str, true: Array, predicted: Array, colour: str) -> bytes:
    errors = predicted - true

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.axhline(0.0, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label="no error")
        mean = float(errors.mean())
        axes.axhline(mean, color=INK, linewidth=1.0, linestyle=":", label=f"mean {mean:.3g}")
        _dots(axes, predicted, errors, colour)
        axes.set(xlabel="predicted", ylabel="predicted \N{MINUS SIGN} true", title=title,
                 xlim=_range(predicted), ylim=_range(errors))  # fmt: skip
        _legend(axes)

    return figure_png(WIDTH, HEIGHT, draw)


def _legend(axes: Any) -> None:
    """Add a legend above the axes, where it hides no points."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, borderpad=0.1)


def _dots(axes: Any, x: Array, y: Array, colour: str) -> None:
    """Draw points that stay visible if there are few, and do not hide each other if many."""
    many = len(x) > 300
    axes.scatter(x, y, s=7 if many else 16, alpha=0.35 if many else 0.7, color=colour, linewidths=0)


def _range(values: Array) -> tuple[float, float]:
    """Return limits of an axis, also for equal values.

    >>> _range(np.array([0.0, 100.0])), _range(np.array([3.0]))
    ((-4.0, 104.0), (2.0, 4.0))
    """
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin
