"""Effect of adaptation on the accuracy of each class and on the domain distance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.config.schema import BASELINES
from tl_lightning.reporting.artifacts import Array, Predictions, read_predictions
from tl_lightning.reporting.formatting import points
from tl_lightning.reporting.run.figures import class_accuracy
from tl_lightning.utils.plotting import INK, LINES, MUTED, TARGET, figure_png, short

__all__ = [
    "class_change",
    "class_change_figure",
    "class_sentence",
    "distance_sentence",
    "read_base",
]

BARS = 24
"""Maximum number of classes in the figure; with more, the best and the worst are shown."""
NAMED = 3
SATURATED = 1.9
SAME = 0.1


def read_base(run_dir: Path, classes: list[str]) -> Predictions:
    """Return the predictions of a run's source-only baseline; empty if it has none."""
    folder = run_dir / "baselines" / next(iter(BASELINES))
    return read_predictions(folder / "predictions.npz", classes)


def class_change(own: Predictions, base: Predictions) -> Array | None:
    """Return the difference of target accuracy from the baseline for each class (C,).

    NaN for a class without target samples; None unless both were tested on the same samples.

    >>> true, names = np.array([0, 0, 1]), ["a", "b"]
    >>> own = Predictions({"target_true": true, "target_pred": np.array([0, 0, 0])}, names)
    >>> base = Predictions({"target_true": true, "target_pred": np.array([0, 1, 1])}, names)
    >>> class_change(own, base).tolist()
    [0.5, -1.0]
    """
    pairs = [predictions.pair("target") for predictions in (own, base)]
    if pairs[0] is None or pairs[1] is None or not np.array_equal(pairs[0][0], pairs[1][0]):
        return None
    counts = [predictions.confusion("target") for predictions in (own, base)]
    assert counts[0] is not None
    assert counts[1] is not None
    change: Array = class_accuracy(counts[0]) - class_accuracy(counts[1])
    return change


def _ordered(change: Array) -> list[int]:
    """Return the classes that have samples, largest gain first."""
    known = np.flatnonzero(np.isfinite(change))
    return [int(index) for index in known[np.argsort(-change[known], kind="stable")]]


def class_change_figure(change: Array, names: list[str]) -> bytes:
    """Return a PNG of the change of each class in points, largest gain first.

    Args:
        change: Result of :func:`class_change`.
        names: C class names. Of more than 24 classes, the best and the worst 12 are drawn.
    """
    order = _ordered(change)
    title = "Change per class"
    if len(order) > BARS:
        title = f"Change of the best and worst of {len(order)} classes"
        order = order[: BARS // 2] + order[-BARS // 2 :]
    values = 100 * change[order]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.grid(False, axis="y")
        colours = [LINES[2] if value >= 0 else TARGET for value in values]
        axes.barh(range(len(order)), values, height=0.72, color=colours)
        axes.axvline(0, color=INK, linewidth=0.8)
        for index, value in enumerate(values):
            left = value < 0
            axes.annotate(f"{value:+.0f}", (value, index), xytext=(-3 if left else 3, 0),
                          textcoords="offset points", ha="right" if left else "left", va="center",
                          fontsize=7.5, color=MUTED)  # fmt: skip
        axes.set_yticks(range(len(order)), [short(names[item], 22) for item in order], color=INK)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.set_xlabel("change of target accuracy from source-only, points")
        axes.set_title(title)

    return figure_png(4.9, 1.0 + 0.18 * max(len(order), 4), draw)


def class_sentence(change: Array, names: list[str]) -> str:
    """Return a summary of the classes that improved and those that got worse.

    >>> class_sentence(np.array([0.5, -0.25, 0.0, np.nan]), ["ant", "bee", "cat", "dog"])
    '1 of 3 classes improved on source-only, 1 got worse. Best: ant (+50.0). Worst: bee (-25.0).'
    """
    order = _ordered(change)
    better = [index for index in order if change[index] > 0]
    worse = [index for index in order[::-1] if change[index] < 0]
    text = f"{len(better)} of {len(order)} classes improved on source-only, {len(worse)} got worse."
    for heading, classes in (("Best", better), ("Worst", worse)):
        examples = [f"{names[index]} ({points(change[index])})" for index in classes[:NAMED]]
        text += f" {heading}: {', '.join(examples)}." if examples else ""
    return text


def distance_sentence(metrics: Mapping[str, Any]) -> str | None:
    """Return the A-distance of the domains before and after training, with its interpretation.

    >>> distance_sentence({"health/a_distance_before": 1.5, "health/a_distance_after": 0.5})[:58]
    "A-distance of the domains' test samples: 1.50 before train"
    """
    before, after = (metrics.get(f"health/a_distance_{when}") for when in ("before", "after"))
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return None
    if min(before, after) > SATURATED:
        meaning = (
            "a linear probe separates the domains almost perfectly before and after training; the "
            "A-distance saturates at 2, so it does not show whether they moved closer"
        )
    elif abs(after - before) < SAME:
        meaning = "training hardly changed how well a linear probe separates the domains"
    elif after < before:
        meaning = "a linear probe separates the domains less well after training: they moved closer"
    else:
        meaning = "a linear probe separates the domains better after training: they moved apart"
    return (
        f"A-distance of the domains' test samples: {before:.2f} before training, "
        f"{after:.2f} after (0: indistinguishable, 2: fully separable); {meaning}."
    )
