"""Learning curves as small panels, one unit each, with the selected epoch marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tl_lightning.reporting.artifacts import Array, Curves, Series
from tl_lightning.utils.plotting import INK, LINES, MUTED, SOURCE, TARGET, figure_png

__all__ = ["learning_curves", "rate_test", "shares"]

MAX_LINES = 7


class Panel(NamedTuple):
    """Content of one panel: columns of ``metrics.csv`` that share a unit.

    Attributes:
        title: Title of the panel.
        lines: Label by column; a key that ends with ``/`` matches every column with that prefix.
        unit: ``""``, ``"%"`` (the values are fractions), ``"log"``, or ``"fraction"``
            (of the sum of the terms' magnitudes per epoch).
        level: A horizontal reference line and its label.
        mark: Whether the selected epoch is labelled in this panel.
    """

    title: str
    lines: dict[str, str]
    unit: str = ""
    level: tuple[float, str] | None = None
    mark: bool = False


PANELS = {
    "losses": Panel("Losses", {"train/": "", "source/val/loss": "source validation"}),
    "balance": Panel("Contribution of each loss term", {"train/": ""}, unit="fraction"),
    "accuracy": Panel(
        "Validation accuracy",
        {"source/val/acc": "source", "target/val/acc": "target (uses labels)"},
        unit="%",
        mark=True,
    ),
    "error": Panel(
        "Validation error (mean absolute)",
        {"source/val/mae": "source", "target/val/mae": "target (uses labels)"},
        mark=True,
    ),
    "label_free": Panel(
        "Label-free scores on the target",
        {
            "target/val/entropy": "entropy",
            "target/val/im": "information maximisation",
            "validator/snd": "SND",
        },
        mark=True,
    ),
    "domains": Panel(
        "Domain discrimination accuracy",
        {"*/domain_acc": "discriminator", "health/probe_acc": "linear probe", "*/lambda": "lambda"},
        unit="%",
        level=(0.5, "chance"),
    ),
    "distance": Panel("A-distance (0: same, 2: separable)", {"health/a_distance": "A-distance"}),
    "spread": Panel("Spread of the features", {"health/spread": "spread"}),
    "gradients": Panel("Gradient norms", {"health/grad_": ""}, unit="log"),
    "rates": Panel("Learning rates", {"lr/": ""}, unit="log"),
}


def learning_curves(curves: Curves, selection: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """Return one PNG by panel name, for every panel that has data.

    Args:
        curves: Result of :func:`tl_lightning.reporting.artifacts.read_curves`.
        selection: The report's ``selection``; its ``epoch`` is marked.
    """
    selected = (selection or {}).get("epoch")
    figures_png = {}
    for name, panel in PANELS.items():
        lines = _pick(panel, curves)
        lines = shares(lines) if panel.unit == "fraction" else lines
        if lines:
            figures_png[name] = _draw(panel, lines, _last_epoch(curves) >= 2, selected)
    return figures_png


def rate_test(found: Mapping[str, Any]) -> bytes:
    """Return a PNG of a learning-rate range test with the suggested rate marked.

    Args:
        found: ``rates``, smoothed ``losses`` and ``lr``, as in ``lr_find.json``.
    """
    count = min(len(found["rates"]), len(found["losses"]))
    rates, losses = (np.asarray(found[name][:count], dtype=float) for name in ("rates", "losses"))

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.135, 0.155, 0.85, 0.62))
        axes.plot(rates, losses, color=INK)
        loss = float(np.interp(np.log(found["lr"]), np.log(rates), losses))
        axes.plot([found["lr"]], [loss], "o", color=TARGET, markersize=5)
        axes.annotate(
            f"{found['lr']:.2g}", (found["lr"], loss), xytext=(6, 6), textcoords="offset points",
            fontsize=8, color=TARGET,
        )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        # The divergence at high rates would otherwise flatten the rest of the curve.
        axes.set_ylim(losses.min() - 0.05 * abs(losses.min()), 1.15 * losses[0])
        axes.set_xlabel("learning rate of new layers")
        _title(axes, "Learning-rate range test", legend=False)

    return figure_png(3.9, 2.7, draw, constrained=False)


def _last_epoch(curves: Curves) -> float:
    epochs = [series.epoch for series in curves.values()]
    finite = [array[np.isfinite(array)].max(initial=0) for array in epochs]
    return float(max(finite, default=0))


def _pick(panel: Panel, curves: Curves) -> dict[str, Series]:
    """Return the series of a panel by label; prefixes skip accuracies and ``_step`` columns."""
    picked: dict[str, Series] = {}
    for pattern, label in panel.lines.items():
        for column, series in curves.items():
            name = _label(pattern, label, column)
            if name is None or (pattern.endswith("/") and column.endswith(("_step", "/acc"))):
                continue
            if np.isfinite(series.value).any() and name not in picked:
                picked[name] = series
    return dict(list(picked.items())[:MAX_LINES])


def shares(terms: dict[str, Series]) -> dict[str, Series]:
    """Return each term's fraction of the total magnitude per epoch; empty for a single term."""
    means = {name: s.per_epoch() for name, s in terms.items() if name != "total"}
    if len(means) < 2 or len({tuple(epochs) for epochs, _ in means.values()}) > 1:
        return {}
    epochs = next(iter(means.values()))[0]
    first = next(iter(terms.values()))
    steps = np.array([first.step[first.epoch == epoch].max() for epoch in epochs])
    sizes = {name: np.abs(values) for name, (_, values) in means.items()}
    total = np.maximum(sum(sizes.values()), np.finfo(float).tiny)
    return {name: Series(epochs, steps, size / total) for name, size in sizes.items()}


def _label(pattern: str, label: str, column: str) -> str | None:
    """Return the label of a column in a panel, or None if the pattern does not match."""
    if pattern.endswith(("/", "_")):
        rest = column.removeprefix(pattern).removesuffix("_epoch")
        return {"loss": "total"}.get(rest, rest) if column.startswith(pattern) else None
    if pattern.startswith("*"):
        return label if column.endswith(pattern[1:]) else None
    return label if column == pattern else None


def _draw(panel: Panel, lines: dict[str, Series], by_epoch: bool, selected: Any) -> bytes:
    percent = panel.unit in ("%", "fraction")
    scale = 100.0 if percent else 1.0

    def draw(figure: Any) -> None:
        # Fixed rather than constrained layout, so that the axes of all panels have the same size.
        axes = figure.add_axes((0.135, 0.155, 0.85, 0.62))
        for index, (label, series) in enumerate(lines.items()):
            x, y = series.per_epoch() if by_epoch else (series.step, series.value)
            x = x + 1 if by_epoch else x  # counted from 1 for the reader
            few = {"marker": "o", "markersize": 3} if len(x) < 4 else {}
            axes.plot(x, y * scale, color=_colour(label, index), label=label, **few)
        if panel.level is not None:
            axes.axhline(panel.level[0] * scale, color=MUTED, linewidth=1.0, linestyle=":",
                         label=panel.level[1])  # fmt: skip
        if by_epoch and selected is not None:
            _mark(axes, float(selected) + 1, panel.mark)
        if panel.unit == "log" and _spread(lines) >= 10:  # a log axis has a tick per decade
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        axes.margins(x=0.02, y=0.08)
        axes.set_xlabel("epoch" if by_epoch else "step")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
        axes.yaxis.set_major_formatter("{x:g} %") if percent else None
        axes.set_ylim(0, 100) if panel.unit == "fraction" else None
        _title(axes, panel.title, legend=percent)

    return figure_png(3.9, 2.7, draw, constrained=False)


def _colour(label: str, index: int) -> str:
    """Return the colour of the domain for its lines, else the next one of the palette."""
    if label.startswith("source"):
        return INK if index else SOURCE
    return TARGET if label.startswith("target") else LINES[index % len(LINES)]


def _spread(lines: dict[str, Series]) -> float:
    """Return the largest value divided by the smallest positive one; 0 without any."""
    values: Array = np.concatenate([series.value for series in lines.values()])
    positive = values[np.isfinite(values) & (values > 0)]
    return float(positive.max() / positive.min()) if len(positive) else 0.0


def _mark(axes: Any, epoch: float, labelled: bool) -> None:
    axes.axvline(epoch, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    if labelled:
        right = epoch < sum(axes.get_xlim()) / 2
        text = f"selected: epoch {epoch:g}" if epoch else "selected: before training"
        axes.annotate(text, (epoch, 0), xytext=(4 if right else -4, 4),
                      xycoords=axes.get_xaxis_transform(), textcoords="offset points",
                      ha="left" if right else "right", fontsize=7.5, color=INK,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip


def _title(axes: Any, title: str, legend: bool) -> None:
    """Set the title, and a legend between it and the axes."""
    lines = len(axes.get_legend_handles_labels()[1])
    rows = -(-lines // 4)
    axes.set_title(title, pad=9 + 11 * max(rows, 1))
    if legend or lines > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=min(lines, 4), borderaxespad=0.2,
            borderpad=0.1, handlelength=1.2, columnspacing=1.0, labelspacing=0.25,
            handletextpad=0.4,
        )  # fmt: skip
