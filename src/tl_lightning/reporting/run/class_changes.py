"""What adaptation changed, class by class and between the domains; for the page of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.reporting.artifacts import Array, Predictions, read_predictions
from tl_lightning.reporting.formatting import BASELINES, points
from tl_lightning.reporting.run.figures import class_accuracy
from tl_lightning.utils.plotting import INK, LINES, MUTED, TARGET, picture, short

__all__ = ["class_change", "class_change_figure", "class_words", "distance_words", "read_base"]

BARS = 24
"""How many classes a figure shows; of more, the best and the worst."""
NAMED = 3
SATURATED = 1.9
SAME = 0.1


def read_base(run_dir: Path, classes: list[str]) -> Predictions:
    """Return what the source-only baseline beside a run said; nothing where there is none."""
    folder = run_dir / "bracket" / next(iter(BASELINES))
    return read_predictions(folder / "predictions.npz", classes)


def class_change(own: Predictions, base: Predictions) -> Array | None:
    """Return by how much the target accuracy of each class (C,) differs from the baseline's.

    NaN for a class without target pictures; None unless both were tested on the same pictures.

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
    """Return the classes that have pictures, the one that gained most first."""
    known = np.flatnonzero(np.isfinite(change))
    return [int(place) for place in known[np.argsort(-change[known], kind="stable")]]


def class_change_figure(change: Array, names: list[str]) -> bytes:
    """Return the PNG of the change of each class in points, the largest gain first.

    Args:
        change: As :func:`class_change` gives it.
        names: C class names. Of more than twenty-four the best and the worst dozen are drawn.
    """
    order = _ordered(change)
    title = "Change of each class"
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
        for place, value in enumerate(values):
            left = value < 0
            axes.annotate(f"{value:+.0f}", (value, place), xytext=(-3 if left else 3, 0),
                          textcoords="offset points", ha="right" if left else "left", va="center",
                          fontsize=7.5, color=MUTED)  # fmt: skip
        axes.set_yticks(range(len(order)), [short(names[item], 22) for item in order], color=INK)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.set_xlabel("points of target accuracy against source-only")
        axes.set_title(title)

    return picture(4.9, 1.0 + 0.18 * max(len(order), 4), draw)


def class_words(change: Array, names: list[str]) -> str:
    """Say which classes gained and which lost.

    >>> class_words(np.array([0.5, -0.25, 0.0, np.nan]), ["ant", "bee", "cat", "dog"])
    '1 of 3 classes gained on source-only, 1 lost. Best: ant (+50.0). Worst: bee (-25.0).'
    """
    order = _ordered(change)
    gained = [place for place in order if change[place] > 0]
    lost = [place for place in order[::-1] if change[place] < 0]
    text = f"{len(gained)} of {len(order)} classes gained on source-only, {len(lost)} lost."
    for word, places in (("Best", gained), ("Worst", lost)):
        named = [f"{names[place]} ({points(change[place])})" for place in places[:NAMED]]
        text += f" {word}: {', '.join(named)}." if named else ""
    return text


def distance_words(metrics: Mapping[str, Any]) -> str | None:
    """Say how far apart the domains are before and after training, and what that means.

    >>> distance_words({"health/a_distance_before": 1.5, "health/a_distance_after": 0.5})[:58]
    "A-distance of the domains' test samples: 1.50 before train"
    """
    before, after = (metrics.get(f"health/a_distance_{when}") for when in ("before", "after"))
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return None
    if min(before, after) > SATURATED:
        means = (
            "a linear probe tells them apart nearly always before and after; the measure ends at "
            "2, so it cannot say here whether they came closer"
        )
    elif abs(after - before) < SAME:
        means = "training hardly changed how well a linear probe tells them apart"
    elif after < before:
        means = "a linear probe tells them apart less well after training: they came closer"
    else:
        means = "a linear probe tells them apart better after training: they moved apart"
    return (
        f"A-distance of the domains' test samples: {before:.2f} before training, "
        f"{after:.2f} after (0: alike, 2: told apart always); {means}."
    )
