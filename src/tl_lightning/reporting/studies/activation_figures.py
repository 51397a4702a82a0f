"""Figures of the activation study: the functions themselves, convergence, single seeds, DANN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from scipy.special import erf, expit

from tl_lightning.reporting.artifacts import Array
from tl_lightning.reporting.statistics import student
from tl_lightning.utils.plotting import INK, LINES, MUTED, picture

__all__ = ["COLOURS", "CURVES", "convergence", "dann_dots", "functions", "seed_dots"]


class Drawn(Protocol):
    """What a figure needs of a run."""

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
        """What was measured."""
        ...


COLOURS = {"tanh": LINES[0], "relu": LINES[1], "sigmoid": LINES[2], "gelu": LINES[3]}
Function = Callable[[Array], Array]


def _normal(x: Array) -> Array:
    """Return the distribution function of the standard normal."""
    return np.asarray(0.5 * (1 + erf(x / np.sqrt(2))))


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


#: Each function with its derivative.
CURVES: dict[str, tuple[Function, Function]] = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (lambda x: np.maximum(x, 0.0), lambda x: (x > 0).astype(float)),
    "sigmoid": (expit, lambda x: np.asarray(expit(x) * (1 - expit(x)))),
    "gelu": (lambda x: x * _normal(x), lambda x: _normal(x) + x * _density(x)),
}


def _colour(name: str, place: int) -> str:
    return COLOURS.get(name, LINES[(place + len(COLOURS)) % len(LINES)])


def functions(names: Sequence[str]) -> bytes:
    """Return the PNG of the functions and of their derivatives, of those known by name."""
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

    return picture(8.6, 2.9, draw)


def convergence(runs: Sequence[Drawn]) -> bytes:
    """Return the PNG of validation accuracy by epoch: the seeds' mean, and their extent as a band.

    Args:
        runs: Of one part.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for place, (name, own) in enumerate(_by_activation(runs).items()):
            length = min(len(run.accuracy) for run in own)
            values = 100 * np.stack([run.accuracy[:length] for run in own])
            epochs = np.arange(1, length + 1)
            colour = _colour(name, place)
            axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.13,
                              linewidth=0)  # fmt: skip
            axes.plot(epochs, values.mean(0), color=colour, label=name)
        axes.yaxis.set_major_formatter("{x:g} %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.01)
        axes.set(xlabel="epoch", title="Source validation accuracy")
        axes.legend(loc="lower right")

    return picture(4.9, 3.1, draw)


def seed_dots(runs: Sequence[Drawn]) -> bytes:
    """Return the PNG of test accuracy and epochs to convergence: a dot a seed, and their mean.

    Args:
        runs: Of one part.
    """

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        _dots(axes[0], runs, "test", 100.0, "Test accuracy", "{x:g} %")
        _dots(axes[1], runs, "epochs", 1.0, "Epochs to 95 %", "{x:g}")

    return picture(4.9, 3.1, draw)


def dann_dots(runs: Sequence[Drawn]) -> bytes:
    """Return the PNG of target accuracy and A-distance of runs that adapt."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        _dots(axes[0], runs, "target", 100.0, "Target test accuracy", "{x:g} %")
        _dots(axes[1], runs, "a_distance", 1.0, "A-distance (0: alike, 2: apart)", "{x:g}")

    return picture(8.6, 2.6, draw)


def _dots(axes: Any, runs: Sequence[Drawn], key: str, scale: float, title: str, form: str) -> None:
    groups = _by_activation(runs)
    for place, (name, own) in enumerate(groups.items()):
        values = [scale * run.figures[key] for run in own if key in run.figures]
        if not values:
            continue
        colour = _colour(name, place)
        axes.plot(values, [place + 0.16] * len(values), "o", color=colour, alpha=0.45,
                  markersize=4.5, markeredgewidth=0)  # fmt: skip
        axes.plot([student(values).mean], [place - 0.1], "D", color=colour, markersize=6,
                  markeredgecolor="white", markeredgewidth=0.8)  # fmt: skip
    axes.grid(False, axis="y")
    axes.set_yticks(range(len(groups)), list(groups), color=INK)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(form)
    axes.xaxis.get_major_locator().set_params(nbins=5)
    axes.margins(x=0.1)
    axes.set_title(title)


def _by_activation(runs: Sequence[Drawn]) -> dict[str, list[Drawn]]:
    groups: dict[str, list[Drawn]] = {}
    for run in runs:
        groups.setdefault(run.activation, []).append(run)
    return groups
