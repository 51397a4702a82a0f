"""Figures of the activation study: functions, convergence, results by seed, DANN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from scipy.special import erf, expit

from tl_lightning.reporting.artifacts import Array
from tl_lightning.reporting.statistics import student
from tl_lightning.utils.plotting import INK, LINES, MUTED, figure_png

__all__ = ["COLOURS", "CURVES", "convergence", "dann_dots", "functions", "seed_dots"]


class Drawn(Protocol):
    """Attributes of a run that figures are drawn from."""

    @property
    def activation(self) -> str:
        """The activation under study."""
        ...

    @property
    def accuracy(self) -> Array:
        """Validation accuracy after each epoch."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """Measured values by name."""
        ...


COLOURS = {"tanh": LINES[0], "relu": LINES[1], "sigmoid": LINES[2], "gelu": LINES[3]}
Function = Callable[[Array], Array]


def _normal(x: Array) -> Array:
    """Return the cumulative distribution function of the standard normal."""
    return np.asarray(0.5 * (1 + erf(x / np.sqrt(2))))


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


#: Functions with their derivatives.
CURVES: dict[str, tuple[Function, Function]] = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (lambda x: np.maximum(x, 0.0), lambda x: (x > 0).astype(float)),
    "sigmoid": (expit, lambda x: np.asarray(expit(x) * (1 - expit(x)))),
    "gelu": (lambda x: x * _normal(x), lambda x: _normal(x) + x * _density(x)),
}


def _colour(name: str, index: int) -> str:
    return COLOURS.get(name, LINES[(index + len(COLOURS)) % len(LINES)])


def functions(names: Sequence[str]) -> bytes:
    """Return a PNG of the functions in ``CURVES`` among ``names``, with their derivatives."""
    x = np.linspace(-4, 4, 801)

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2)
        for which, (ax, title) in enumerate(zip(axes, ("Function", "Derivative"), strict=True)):
            for name in (name for name in names if name in CURVES):
                ax.plot(x, CURVES[name][which](x), color=COLOURS[name], label=name)
            ax.axhline(0, color=MUTED, linewidth=0.8)
            ax.set(title=title, xlim=(-4, 4), xlabel="input")
        axes[0].set_ylim(-1.15, 2.2)
        axes[1].set_ylim(-0.2, 1.2)
        axes[0].legend(loc="upper left")

    return figure_png(8.6, 2.9, draw)


def convergence(runs: Sequence[Drawn]) -> bytes:
    """Return a PNG of validation accuracy by epoch: mean over seeds, with a min-max band.

    Args:
        runs: Runs of one part.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for index, (name, members) in enumerate(_by_activation(runs).items()):
            length = min(len(run.accuracy) for run in members)
            values = 100 * np.stack([run.accuracy[:length] for run in members])
            epochs = np.arange(1, length + 1)
            colour = _colour(name, index)
            axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.13,
                              linewidth=0)  # fmt: skip
            axes.plot(epochs, values.mean(0), color=colour, label=name)
        axes.yaxis.set_major_formatter("{x:g} %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.01)
        axes.set(xlabel="epoch", title="Source validation accuracy")
        axes.legend(loc="lower right")

    return figure_png(4.9, 3.1, draw)


def seed_dots(runs: Sequence[Drawn]) -> bytes:
    """Return a PNG of test accuracy and epochs to convergence: one dot per seed, and the mean.

    Args:
        runs: Runs of one part.
    """

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        _dots(axes[0], runs, "test", 100.0, "Test accuracy", "{x:g} %")
        _dots(axes[1], runs, "epochs", 1.0, "Epochs to 95 %", "{x:g}")

    return figure_png(4.9, 3.1, draw)


def dann_dots(runs: Sequence[Drawn]) -> bytes:
    """Return a PNG of target accuracy and A-distance of runs that adapt to a target."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        _dots(axes[0], runs, "target", 100.0, "Target test accuracy", "{x:g} %")
        _dots(axes[1], runs, "a_distance", 1.0, "A-distance (0: same, 2: separable)", "{x:g}")

    return figure_png(8.6, 2.6, draw)


def _dots(axes: Any, runs: Sequence[Drawn], key: str, scale: float, title: str, spec: str) -> None:
    groups = _by_activation(runs)
    for index, (name, members) in enumerate(groups.items()):
        values = [scale * run.figures[key] for run in members if key in run.figures]
        if not values:
            continue
        colour = _colour(name, index)
        axes.plot(values, [index + 0.16] * len(values), "o", color=colour, alpha=0.45,
                  markersize=4.5, markeredgewidth=0)  # fmt: skip
        axes.plot([student(values).mean], [index - 0.1], "D", color=colour, markersize=6,
                  markeredgecolor="white", markeredgewidth=0.8)  # fmt: skip
    axes.grid(False, axis="y")
    axes.set_yticks(range(len(groups)), list(groups), color=INK)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(spec)
    axes.xaxis.get_major_locator().set_params(nbins=5)
    axes.margins(x=0.1)
    axes.set_title(title)


def _by_activation(runs: Sequence[Drawn]) -> dict[str, list[Drawn]]:
    groups: dict[str, list[Drawn]] = {}
    for run in runs:
        groups.setdefault(run.activation, []).append(run)
    return groups
