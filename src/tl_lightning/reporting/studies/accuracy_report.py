"""Report of the accuracy study: Markdown tables, CSV of all pairs, and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.errors import DataError
from tl_lightning.reliability.estimators import ESTIMATORS
from tl_lightning.reporting.formatting import seeds_range
from tl_lightning.reporting.studies.accuracy_left_out import (
    METHODS,
    SETTINGS,
    USED,
    Prediction,
    fit,
    left_out,
)
from tl_lightning.reporting.studies.accuracy_pairs import Pair, read_pairs
from tl_lightning.utils.files import write_bytes, write_text
from tl_lightning.utils.plotting import INK, LINES, MUTED, figure_png

__all__ = ["write_accuracy"]

#: Fewer datasets cannot be left out: two others are needed to fit the width of the interval.
FEWEST = 3
AGREEMENTS = {
    "seeds": "agreement of two seeds",
    "other": "median agreement with other models",
}
NOTE = (
    "A pair is a model and a target whose labels were used only to measure the errors, in points "
    "of accuracy: mean and maximum of the absolute errors over all pairs, bias (estimate minus "
    "truth), and the mean error on each dataset. A combination is fitted to the other datasets: "
    "its weights, the choice of estimators and the width of the interval. Coverage: fraction of "
    "pairs whose accuracy is in the interval, which is meant to be 90 %."
)


def write_accuracy(roots: Sequence[Path]) -> Path:
    """Write ``accuracy.md``, ``accuracy.csv`` (one line per pair) and ``accuracy.png``.

    Args:
        roots: Folders with runs at any depth; the files are written to the first one.

    Returns:
        The path of ``accuracy.md``.

    Raises:
        DataError: If there are not enough runs with stored outputs.
    """
    pairs, notes = read_pairs(roots)
    data = list(dict.fromkeys(pair.data for pair in pairs))
    if len(data) < FEWEST:
        raise DataError(
            f"the study needs runs on at least {FEWEST} datasets, so that each can be left out, "
            f"got {', '.join(data)}; pass more folders: accuracy_study.py <folder> <folder>"
        )
    seeds = seeds_range(sorted({pair.seed for pair in pairs}))
    parts = ["# Accuracy without target labels",
             f"{len(pairs)} pairs on {', '.join(data)}, seeds {seeds}."]  # fmt: skip
    used: dict[str, Prediction] = {}
    for setting in SETTINGS:
        chosen = setting.pairs(pairs)
        names = [name for name in data if any(pair.data == name for pair in chosen)]
        if len(names) >= FEWEST:
            made = {title: left_out(chosen, m, setting.limit) for title, m in METHODS.items()}
            used |= {one.pair.folder: one for one in made[USED]}
            tables = [f"## {setting.title}: {len(chosen)} pairs", _combinations(made, names)]
            tables += [] if setting.limit else [_estimators(chosen, names)]
            parts += [*tables, f"Fitted to all of them:\n\n{_fitted(chosen, setting.limit)}"]
    every = list(used.values())
    parts += [
        f"## All, compared if there is another model\n\n{_combinations({USED: every}, data)}",
        f"## Class frequencies of the target\n\n{_mixes(pairs)}",
        NOTE,
        *notes,
    ]
    write_text(roots[0] / "accuracy.csv", _csv(every))
    write_bytes(roots[0] / "accuracy.png", _figure(every))
    return write_text(roots[0] / "accuracy.md", "\n\n".join(parts) + "\n")


def _estimators(pairs: Sequence[Pair], data: Sequence[str]) -> str:
    titles = {name: estimator.title for name, estimator in ESTIMATORS.items()} | AGREEMENTS
    rows = [["Estimator", "Mean", "Worst", "Bias", "Pairs", *data]]
    for name, title in titles.items():
        known = [pair for pair in pairs if name in pair.estimators]
        if known:
            errors = np.array([pair.estimators[name] - pair.accuracy for pair in known])
            names = [pair.data for pair in known]
            rows.append([title, *_errors(errors), str(len(known)), *_by(errors, names, data)])
    return _table(rows)


def _combinations(predictions: Mapping[str, Sequence[Prediction]], data: Sequence[str]) -> str:
    rows = [["Combination", "Mean", "Worst", "Bias", "Coverage", "Half width", *data]]
    for title, found in predictions.items():
        errors = np.array([one.error for one in found])
        covered = np.mean([one.covered for one in found])
        half = float(np.mean([(one.high - one.low) / 2 for one in found]))
        names = [one.pair.data for one in found]
        title = f"**{title}**" if title == USED else title
        rows.append([title, *_errors(errors), f"{100 * covered:.0f} %", _points(half),
                     *_by(errors, names, data)])  # fmt: skip
    return _table(rows)


def _fitted(pairs: Sequence[Pair], limit: str | None) -> str:
    lines = []
    for title, method in METHODS.items():
        found = fit(pairs, method, limit)
        weights = ", ".join(f"{name} {weight:.3f}" for name, weight in found.weights.items())
        lines.append(f"- {title}: {weights}; bias {found.bias:.3f}; factor {found.factor:.2f}")
    return "\n".join(lines)


def _mixes(pairs: Sequence[Pair]) -> str:
    rows = [["Dataset", "Domains", "Model", "True distance", "Estimated"]]
    for pair in pairs:
        distances = (f"{d:.2f}" for d in (pair.mix_distance, pair.estimated_distance))
        rows.append([pair.data, pair.domains, f"{pair.name}, seed {pair.seed}", *distances])
    return _table(rows)


def _errors(errors: Any) -> list[str]:
    return [_points(np.abs(errors).mean()), _points(np.abs(errors).max()),
            f"{100 * errors.mean():+.1f}"]  # fmt: skip


def _by(errors: Any, names: Sequence[str], data: Sequence[str]) -> list[str]:
    cells = []
    for one in data:
        chosen = np.array([name == one for name in names])
        cells.append(_points(np.abs(errors[chosen]).mean()) if chosen.any() else "–")
    return cells


def _points(value: float) -> str:
    """Return an error in points.

    >>> _points(0.1234)
    '12.3'
    """
    return f"{100 * value:.1f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    marked = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in marked)


def _csv(predictions: Sequence[Prediction]) -> str:
    """Return one CSV line per pair, all numbers as fractions."""
    names = [*ESTIMATORS, *AGREEMENTS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "domains", "name", "seed", "folder", "adapted", "source_samples",
                     "samples", "accuracy", "estimate", "low", "high", *names, "mix_distance",
                     "estimated_distance"])  # fmt: skip
    for one in predictions:
        pair = one.pair
        key = [pair.data, pair.domains, pair.name, pair.seed, pair.folder, int(pair.adapted),
               pair.source_samples, pair.samples]  # fmt: skip
        single = [pair.estimators.get(name) for name in names]
        numbers = [pair.accuracy, one.value, one.low, one.high, *single, pair.mix_distance,
                   pair.estimated_distance]  # fmt: skip
        writer.writerow([*key, *("" if x is None else f"{x:.6g}" for x in numbers)])
    return text.getvalue()


def _figure(predictions: Sequence[Prediction]) -> bytes:
    """Return a PNG of estimates against true accuracies: source, ATC, and the combination."""
    names = list(dict.fromkeys(one.pair.data for one in predictions))
    colours = {name: LINES[i % len(LINES)] for i, name in enumerate(names)}
    panels = {"Source accuracy": "source", "ATC, maximum confidence": "atc", "Combination": None}

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(panels), sharey=True, sharex=True)
        for ax, (title, name) in zip(axes, panels.items(), strict=True):
            ax.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8)
            for one in predictions:
                pair = one.pair
                estimate = one.value if name is None else pair.estimators[name]
                x, y = 100 * pair.accuracy, 100 * estimate
                colour = colours[pair.data]
                if name is None:
                    ax.plot([x, x], [100 * one.low, 100 * one.high], color=colour, alpha=0.45)
                ax.plot([x], [y], "o", color=colour, markersize=4, markeredgewidth=0)
            ax.set(title=title, xlabel="true accuracy, %", xlim=(0, 100), ylim=(0, 100))
            ax.set_aspect("equal")
        axes[0].set_ylabel("estimate, %", color=INK)
        for name in names:
            axes[0].plot([], [], "o", color=colours[name], markersize=4, label=name)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center",
                      ncols=len(names))  # fmt: skip

    return figure_png(9.2, 3.7, draw)
