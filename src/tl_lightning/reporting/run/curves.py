"""Learning curves: small panels, each with one unit, and the chosen epoch marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tl_lightning.reporting.artifacts import Array, Curves, Series
from tl_lightning.utils.plotting import INK, LINES, MUTED, SOURCE, TARGET, picture

__all__ = ["learning_curves", "rate_test", "shares"]

MAX_LINES = 7


class Panel(NamedTuple):
    """What one small figure shows: columns of ``metrics.csv`` and their names, in one unit.

    Attributes:
        title: Heading.
        lines: Column to label; an entry that ends with ``/`` takes every column below it.
        unit: ``""``, ``"%"`` (the values are fractions), ``"log"``, or ``"share"``: of the sum
            of all terms' sizes, epoch by epoch.
        level: A horizontal reference and its label.
        mark: Whether the chosen epoch is written out here.
    """

    title: str
    lines: dict[str, str]
    unit: str = ""
    level: tuple[float, str] | None = None
    mark: bool = False


PANELS = {
    "losses": Panel("Losses", {"train/": "", "source/val/loss": "source validation"}),
    "balance": Panel("Share of each loss term", {"train/": ""}, unit="share"),
    "accuracy": Panel(
        "Validation accuracy",
        {"source/val/acc": "source", "target/val/acc": "target (uses labels)"},
        unit="%",
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
        "Can the domains be told apart?",
        {"*/domain_acc": "discriminator", "health/probe_acc": "fresh probe", "*/lambda": "lambda"},
        unit="%",
        level=(0.5, "chance"),
    ),
    "distance": Panel("A-distance (0: alike, 2: apart)", {"health/a_distance": "A-distance"}),
    "spread": Panel("Spread of the features", {"health/spread": "spread"}),
    "gradients": Panel("Gradient norms", {"health/grad_": ""}, unit="log"),
    "rates": Panel("Learning rates", {"lr/": ""}, unit="log"),
}


def learning_curves(curves: Curves, selection: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """Return one PNG a panel that has data, by panel name.

    Args:
        curves: Logged columns, as :func:`tl_lightning.reporting.artifacts.read_curves` gives them.
        selection: The report's ``selection``; its ``epoch`` is marked.
    """
    chosen = (selection or {}).get("epoch")
    pictures = {}
    for name, panel in PANELS.items():
        lines = _pick(panel, curves)
        lines = shares(lines) if panel.unit == "share" else lines
        if lines:
            pictures[name] = _draw(panel, lines, _last_epoch(curves) >= 2, chosen)
    return pictures


def rate_test(found: Mapping[str, Any]) -> bytes:
    """Return the PNG of a learning-rate range test, the rate that it found marked.

    Args:
        found: ``rates``, smoothed ``losses`` and ``lr``, as ``lr_find.json`` has them.
    """
    count = min(len(found["rates"]), len(found["losses"]))
    rates, losses = (np.asarray(found[name][:count], dtype=float) for name in ("rates", "losses"))

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.135, 0.155, 0.85, 0.62))
        axes.plot(rates, losses, color=INK)
        near = float(np.interp(np.log(found["lr"]), np.log(rates), losses))
        axes.plot([found["lr"]], [near], "o", color=TARGET, markersize=5)
        axes.annotate(
            f"{found['lr']:.2g}", (found["lr"], near), xytext=(6, 6), textcoords="offset points",
            fontsize=8, color=TARGET,
        )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        # Where it breaks down it would flatten all the rest.
        axes.set_ylim(losses.min() - 0.05 * abs(losses.min()), 1.15 * losses[0])
        axes.set_xlabel("learning rate of new layers")
        _title(axes, "Loss while the rate grows", keyed=False)

    return picture(3.9, 2.7, draw, constrained=False)


def _last_epoch(curves: Curves) -> float:
    epochs = [series.epoch for series in curves.values()]
    finite = [array[np.isfinite(array)].max(initial=0) for array in epochs]
    return float(max(finite, default=0))


def _pick(panel: Panel, curves: Curves) -> dict[str, Series]:
    """Return label to series of a panel, without accuracies among the losses."""
    found: dict[str, Series] = {}
    for pattern, label in panel.lines.items():
        for column, series in curves.items():
            name = _label(pattern, label, column)
            if name is None or (pattern.endswith("/") and column.endswith(("_step", "/acc"))):
                continue
            if np.isfinite(series.value).any() and name not in found:
                found[name] = series
    return dict(list(found.items())[:MAX_LINES])


def shares(terms: dict[str, Series]) -> dict[str, Series]:
    """Return each term's mean size an epoch as a share of all; nothing for a single term."""
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
    """Return how a column is called in a panel, or None when it does not belong there."""
    if pattern.endswith(("/", "_")):
        rest = column.removeprefix(pattern).removesuffix("_epoch")
        return {"loss": "total"}.get(rest, rest) if column.startswith(pattern) else None
    if pattern.startswith("*"):
        return label if column.endswith(pattern[1:]) else None
    return label if column == pattern else None


def _draw(panel: Panel, lines: dict[str, Series], by_epoch: bool, chosen: Any) -> bytes:
    percent = panel.unit in ("%", "share")
    scale = 100.0 if percent else 1.0

    def draw(figure: Any) -> None:
        # Fixed, not constrained: in a grid the plots of all panels are of one size.
        axes = figure.add_axes((0.135, 0.155, 0.85, 0.62))
        for index, (label, series) in enumerate(lines.items()):
            x, y = series.per_epoch() if by_epoch else (series.step, series.value)
            few = {"marker": "o", "markersize": 3} if len(x) < 4 else {}
            axes.plot(x, y * scale, color=_colour(label, index), label=label, **few)
        if panel.level is not None:
            axes.axhline(panel.level[0] * scale, color=MUTED, linewidth=1.0, linestyle=":",
                         label=panel.level[1])  # fmt: skip
        if by_epoch and chosen is not None:
            _mark(axes, float(chosen), panel.mark)
        if panel.unit == "log" and _positive(lines):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        axes.margins(x=0.02, y=0.08)
        axes.set_xlabel("epoch" if by_epoch else "step")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
        axes.yaxis.set_major_formatter("{x:g} %") if percent else None
        axes.set_ylim(0, 100) if panel.unit == "share" else None
        _title(axes, panel.title, keyed=percent)

    return picture(3.9, 2.7, draw, constrained=False)


def _colour(label: str, index: int) -> str:
    """Return a colour: that of the domain when the line is one's, else the next of the palette."""
    if label.startswith("source"):
        return INK if index else SOURCE
    return TARGET if label.startswith("target") else LINES[index % len(LINES)]


def _positive(lines: dict[str, Series]) -> bool:
    values: Array = np.concatenate([series.value for series in lines.values()])
    return bool((values[np.isfinite(values)] > 0).any())


def _mark(axes: Any, epoch: float, written: bool) -> None:
    axes.axvline(epoch, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    if written:
        right = epoch < sum(axes.get_xlim()) / 2
        axes.annotate(f"chosen: epoch {epoch:g}", (epoch, 0), xytext=(4 if right else -4, 4),
                      xycoords=axes.get_xaxis_transform(), textcoords="offset points",
                      ha="left" if right else "right", fontsize=7.5, color=INK)  # fmt: skip


def _title(axes: Any, title: str, keyed: bool) -> None:
    """Set the heading, and between it and the plot a legend; headings of a row are level."""
    lines = len(axes.get_legend_handles_labels()[1])
    rows = -(-lines // 4)
    axes.set_title(title, pad=9 + 11 * max(rows, 1))
    if keyed or lines > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=min(lines, 4), borderaxespad=0.2,
            borderpad=0.1, handlelength=1.2, columnspacing=1.0, labelspacing=0.25,
            handletextpad=0.4,
        )  # fmt: skip
