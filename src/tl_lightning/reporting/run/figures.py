"""Figures of a model's predictions: confusion matrices, features, class accuracy, examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from tl_lightning.reporting.artifacts import Array, Predictions
from tl_lightning.utils.plotting import (
    CLASS_COLOURS,
    GRID,
    INK,
    MUTED,
    SOURCE,
    TARGET,
    figure_png,
    short,
)

__all__ = [
    "class_accuracy",
    "confused_pairs",
    "confusion_matrix",
    "example_gallery",
    "features",
    "per_class",
]

DOMAINS = {"source": (SOURCE, "o"), "target": (TARGET, "^")}
NUMBERS, LABELS, BARS = 16, 40, 24
"""Maximum number of classes with numbers and with labels in a matrix, and of classes with bars."""


def class_accuracy(counts: Array) -> Array:
    """Return the accuracy of each true class (C,); NaN for a class without samples.

    >>> class_accuracy(np.array([[3, 1], [0, 2]])).tolist()
    [0.75, 1.0]
    """
    total = counts.sum(axis=1)
    accuracy = np.full(len(counts), np.nan)
    np.divide(np.diagonal(counts), total, out=accuracy, where=total > 0)
    return accuracy


def confused_pairs(counts: Array, limit: int = 12) -> list[tuple[int, int, int, float]]:
    """Return the most frequent confusions as (true, predicted, count, fraction of the true class).

    >>> confused_pairs(np.array([[3, 1], [0, 2]]))
    [(0, 1, 1, 0.25)]
    """
    wrong = counts - np.diag(np.diagonal(counts))
    total = counts.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [
        (t, p, int(wrong[t, p]), float(wrong[t, p] / total[t])) for t, p in cells if wrong[t, p]
    ]


def confusion_matrix(counts: Array, names: list[str], title: str) -> bytes:
    """Return a PNG of a confusion matrix, normalised over each true class.

    Args:
        counts: (C, C), rows true and columns predicted.
        names: C class names; shown for up to 40 classes.
        title: Title of the figure.
    """
    total = counts.sum(axis=1, keepdims=True)
    percentages = 100 * counts / np.maximum(total, 1)
    size = len(counts)

    def draw(figure: Any) -> None:
        from matplotlib.colors import PowerNorm

        axes = figure.add_subplot()
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set(visible=True, color=GRID)
        # With many classes single errors are faint dots; the square root makes them visible.
        norm = PowerNorm(0.5 if size > NUMBERS else 1.0, vmin=0, vmax=100)
        image = axes.imshow(percentages, cmap="Blues", norm=norm, interpolation="nearest")
        axes.set(xlabel="predicted", ylabel="true", title=title)
        _class_ticks(axes, names)
        if size <= NUMBERS:
            _cell_numbers(axes, percentages)
        else:
            bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02, aspect=28, format="{x:g} %")
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=8)

    return figure_png(4.9, 4.5, draw)


def _class_ticks(axes: Any, names: list[str]) -> None:
    if len(names) > LABELS:
        axes.set(xlabel=f"predicted ({len(names)} classes)", ylabel="true (same order)")
        axes.set(xticks=[], yticks=[])
        return
    size = 8.0 if len(names) <= NUMBERS else 5.5
    labels = [short(name) for name in names]
    long = max(map(len, labels), default=0) > 3
    axes.set_xticks(range(len(names)), labels, rotation=90 if long else 0, fontsize=size)
    axes.set_yticks(range(len(names)), labels, fontsize=size)


def _cell_numbers(axes: Any, percentages: Array) -> None:
    size = 7.5 if len(percentages) <= 10 else 5.5
    for (row, column), value in np.ndenumerate(percentages):
        if value >= 0.5:
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=size,
                      color="white" if value > 55 else INK)  # fmt: skip


PROJECTIONS = {"pca": ("first principal component", "second"), "tsne": ("t-SNE", ""),
               "umap": ("UMAP", "")}  # fmt: skip
"""Axis labels of each projection."""


def features(predictions: Predictions, projection: str = "pca") -> dict[str, bytes]:
    """Return scatter plots of the 2-D features before and after training, by name.

    ``features_before`` and ``features_after`` are coloured by domain, if there are two. With at
    most 12 classes, ``features_before_classes`` and ``features_after_classes`` are coloured by
    class. Markers distinguish source and target in all of them.
    """
    figures_png = {}
    shown = _shown_domains(predictions)
    for when in ("before", "after"):
        points = predictions.arrays.get(f"features_{when}")
        if points is None or not len(points):
            continue
        axes = PROJECTIONS.get(projection, (projection, ""))
        if len(shown) > 1:
            figures_png[f"features_{when}"] = _scatter(predictions, points, when, axes, False)
        if "features_label" in predictions.arrays and predictions.num_classes <= len(CLASS_COLOURS):
            figures_png[f"features_{when}_classes"] = _scatter(
                predictions, points, when, axes, True
            )
    return figures_png


def _shown_domains(predictions: Predictions) -> list[str]:
    """Return the domains that have features."""
    present = set(predictions.arrays.get("features_domain", np.zeros(1, dtype=int)).tolist())
    return [name for index, name in enumerate(DOMAINS) if index in present]


def _scatter(
    predictions: Predictions, points: Array, when: str, labels: tuple[str, str], by_class: bool
) -> bytes:
    domain = predictions.arrays.get("features_domain", np.zeros(len(points), dtype=int))
    label = predictions.arrays.get("features_label", np.zeros(len(points), dtype=int))

    def draw(figure: Any) -> None:
        from matplotlib.colors import to_rgba

        axes = figure.add_subplot()
        for index, (name, (colour, marker)) in enumerate(DOMAINS.items()):
            mask = domain == index
            classes = [to_rgba(CLASS_COLOURS[item % 12]) for item in label[mask]]
            axes.scatter(*points[mask].T[:2], c=classes if by_class else colour, marker=marker,
                         s=15 if marker == "^" else 12, alpha=0.75, linewidths=0.3,
                         edgecolors="white", label=name if mask.any() else None)  # fmt: skip
        axes.set(xticks=[], yticks=[], xlabel=labels[0], ylabel=labels[1])
        # Without labels, the classes are the predicted ones of the trained model.
        bare = "target_pred" in predictions.arrays and predictions.pair("target") is None
        what = "domain" if not by_class else "class (target: predicted)" if bare else "class"
        axes.set_title(f"{when.capitalize()} training, by {what}")
        _scatter_legend(figure, predictions, by_class)

    return figure_png(4.6, 4.2 if by_class else 3.8, draw)


def _scatter_legend(figure: Any, predictions: Predictions, by_class: bool) -> None:
    from matplotlib.lines import Line2D

    def handle(marker: str, colour: str, label: str) -> Any:
        return Line2D([], [], marker=marker, color=colour, linestyle="", label=label, markersize=5)

    handles = [
        handle(mark, MUTED if by_class else ink, name)
        for name, (ink, mark) in DOMAINS.items()
        if name in _shown_domains(predictions)
    ]
    if by_class:
        names = [short(predictions.name(index), 12) for index in range(predictions.num_classes)]
        handles += [handle("s", CLASS_COLOURS[index], name) for index, name in enumerate(names)]
    widest = max((len(item.get_label()) for item in handles), default=0)
    columns = 7 if widest <= 6 else 4
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, handletextpad=0.1,
                  columnspacing=0.9, borderpad=0.1, labelspacing=0.3)  # fmt: skip


def per_class(accuracies: dict[str, Array], names: list[str]) -> bytes:
    """Return a PNG of accuracy per class, one bar per domain.

    Args:
        accuracies: Accuracies (C,) by domain (``source``, ``target``); NaN without samples.
        names: C class names. Of more than 24 classes, the worst are drawn.
    """
    leading = accuracies.get("target", next(iter(accuracies.values())))
    order = np.arange(len(names))
    title = "Accuracy per class"
    if len(names) > BARS:
        order = np.argsort(leading, kind="stable")[:BARS]
        title = f"Accuracy per class: the {BARS} worst of {len(names)}"
    wide = 0.8 / len(accuracies)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.grid(False, axis="y")
        for index, (domain, values) in enumerate(accuracies.items()):
            position = np.arange(len(order)) + (index - (len(accuracies) - 1) / 2) * wide
            axes.barh(position, 100 * np.nan_to_num(values[order]), height=wide * 0.92,
                      color=DOMAINS[domain][0], label=domain)  # fmt: skip
        axes.set_yticks(range(len(order)), [short(names[item], 22) for item in order], color=INK)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.set_title(title, pad=20)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2,
                    handlelength=1.0)  # fmt: skip

    return figure_png(4.9, 1.1 + 0.13 * (len(accuracies) + 0.4) * max(len(order), 4), draw)


#: Images in a row of the gallery, and the width and height of a cell in sides of its image.
COLUMNS, CELL = 8, (1.2, 1.38)


def example_gallery(predictions: Predictions, domain: str, limit: int = 24) -> bytes | None:
    """Return a PNG of example images with true and predicted class, or None without examples.

    Args:
        predictions: With ``examples_{domain}`` (n, h, w, 3) uint8, ``_true`` and ``_pred``.
        domain: ``source`` or ``target``.
        limit: Maximum number of images.
    """
    images = predictions.arrays.get(f"examples_{domain}")
    if images is None or not len(images):
        return None
    true, pred = (predictions.arrays[f"examples_{domain}_{kind}"] for kind in ("true", "pred"))
    count = min(len(images), limit)
    rows = -(-count // COLUMNS)

    def draw(figure: Any) -> None:
        figure.suptitle(f"Examples of the {domain}", x=0.01, ha="left", fontsize=9.5, weight="bold")
        # One set of axes for all images: a set for each takes several times as long.
        axes = figure.add_axes((0.01, 0, 0.98, 1 - 0.3 / figure.get_figheight()))
        axes.axis("off")
        for index in range(count):
            row, column = divmod(index, COLUMNS)
            _example(axes, images[index], (column * CELL[0], row * CELL[1]))
            correct = true[index] == pred[index]
            names = [predictions.name(int(item)) for item in (true[index], pred[index])]
            caption = f"{'✓' if correct else '✗'} {short(names[1], 13)}"
            caption += "" if correct else f"\ntrue: {short(names[0], 10)}"
            axes.text(column * CELL[0], row * CELL[1] + 1.04, caption, va="top", fontsize=6.0,
                      color=INK if correct else TARGET)  # fmt: skip
        axes.set(xlim=(0, COLUMNS * CELL[0]), ylim=(rows * CELL[1], 0), aspect="equal", anchor="NW")

    return figure_png(7.6, 0.35 + 1.08 * rows, draw, constrained=False)


def _example(axes: Any, pixels: Array, corner: tuple[float, float]) -> None:
    """Draw an image ``(h, w, 3)`` into the square of side 1 below and right of ``corner``."""
    height, width = (side / max(pixels.shape[:2]) for side in pixels.shape[:2])
    x, y = corner[0] + (1 - width) / 2, corner[1] + 1 - height
    axes.imshow(pixels, interpolation="nearest", extent=(x, x + width, y + height, y))
