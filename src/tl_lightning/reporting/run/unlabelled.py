"""Predictions without labels on a run's page: class mix, confidence, and a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tl_lightning.reporting.artifacts import Array, Predictions
from tl_lightning.reporting.formatting import percent
from tl_lightning.utils.plotting import INK, MUTED, SOURCE, TARGET, figure_png, short

__all__ = ["changed_sentence", "contact_sheet", "describe_predicted", "unlabelled_figures"]

BARS = 24
"""Maximum number of classes in the figure of the class mix; with more, the most frequent ones."""
BINS = 20


def describe_predicted(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a domain's predictions as text.

    Args:
        found: ``samples``, mean ``confidence`` and number of samples by class (``classes``), as in
            the report.

    >>> found = {"samples": 3, "confidence": 0.5, "classes": {"a": 1, "b": 2, "c": 0}}
    >>> text = describe_predicted(found)
    >>> text["confidence"], text["mix"], text["never"]
    ('50.0 %', 'b 2 (66.7 %), a 1 (33.3 %)', 'c')
    >>> text["rows"][0]
    ('b', '2', '66.7 %')
    """
    counts = sorted(found["classes"].items(), key=lambda item: -item[1])
    total = max(1, found["samples"])
    rows = [(name, f"{count:,}", percent(count / total)) for name, count in counts]
    mix = [f"{name} {count} ({share})" for name, count, share in rows if count != "0"]
    return {
        "samples": f"{found['samples']:,}",
        "confidence": percent(found["confidence"]),
        "mix": _first(mix),
        "never": _first([name for name, count in counts if not count]),
        "rows": rows,
    }


def _first(items: list[str], shown: int = 12) -> str:
    more = len(items) - shown
    return ", ".join(items[:shown]) + (f" and {more} more" if more > 0 else "")


def unlabelled_figures(predictions: Predictions, domain: str) -> dict[str, bytes]:
    """Return the figures of a domain without labels by name; empty without its predictions."""
    pred = predictions.arrays.get(f"{domain}_pred")
    confidence = predictions.arrays.get(f"{domain}_confidence")
    if pred is None or confidence is None or not len(pred):
        return {}
    counts = np.bincount(pred, minlength=predictions.num_classes)
    pair = predictions.pair("source")
    source = None if pair is None else np.bincount(pair[0], minlength=len(counts))
    names = [predictions.name(index) for index in range(len(counts))]
    others = predictions.arrays.get("source_confidence")
    return {
        f"class_mix_{domain}": _class_mix(counts, source, names),
        f"confidence_{domain}": _confidence(confidence, others),
    }


def _class_mix(counts: Array, source: Array | None, names: list[str]) -> bytes:
    """Return a PNG of the predicted classes, most frequent first."""
    order = np.argsort(-counts, kind="stable")[:BARS]
    total = counts.sum()

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.grid(False, axis="y")
        shares = 100 * counts[order] / total
        axes.barh(range(len(order)), shares, height=0.72, color=TARGET, label="target, predicted")
        if source is not None and source.sum():
            axes.plot(100 * source[order] / source.sum(), range(len(order)), "|", color=INK,
                      markersize=9, markeredgewidth=1.6, label="source, labels")  # fmt: skip
        for place, index in enumerate(order):
            axes.annotate(f"{counts[index]:,}", (shares[place], place), xytext=(4, 0),
                          textcoords="offset points", va="center", fontsize=7.5,
                          color=MUTED)  # fmt: skip
        axes.set_yticks(range(len(order)), [short(names[item], 22) for item in order], color=INK)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:g} %")
        rest = f", {len(order)} of {len(counts)} classes" if len(counts) > len(order) else ""
        axes.set_title(f"Predicted classes of the target{rest}", pad=20)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2,
                    handlelength=1.0)  # fmt: skip

    return figure_png(4.9, 1.2 + 0.2 * max(len(order), 4), draw)


def _confidence(target: Array, source: Array | None) -> bytes:
    """Return a PNG of the distribution of the confidence of both domains."""
    edges = np.linspace(0, 1, BINS + 1)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.grid(False, axis="x")
        for values, colour, name in ((source, SOURCE, "source"), (target, TARGET, "target")):
            if values is not None and len(values):
                weights = np.full(len(values), 100 / len(values))
                filled: dict[str, Any] = {"alpha": 0.85} if name == "target" else {}
                kind = "stepfilled" if name == "target" else "step"
                axes.hist(100 * values, bins=100 * edges, weights=weights, histtype=kind,
                          color=colour, linewidth=1.6, label=name, **filled)  # fmt: skip
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.yaxis.set_major_formatter("{x:g} %")
        axes.set_xlabel("confidence: probability of the predicted class")
        axes.set_ylabel("test samples")
        axes.set_title("Confidence", pad=20)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2,
                    handlelength=1.0)  # fmt: skip

    return figure_png(4.9, 2.9, draw)


def contact_sheet(
    predictions: Predictions, domain: str, found: Mapping[str, Any], inline: Callable[[Array], str]
) -> list[dict[str, Any]]:
    """Return the example images or texts of a domain without labels, by predicted class.

    Classes and the samples of each are in descending order of frequency and of confidence.

    Args:
        predictions: With ``examples_{domain}`` or ``examples_{domain}_text``.
        domain: ``source`` or ``target``.
        found: The domain's summary in the report.
        inline: Returns an image as a data URL.
    """
    arrays = predictions.arrays
    images, texts = arrays.get(f"examples_{domain}"), arrays.get(f"examples_{domain}_text")
    pred = arrays.get(f"examples_{domain}_pred")
    confidence = arrays.get(f"examples_{domain}_confidence")
    if pred is None or confidence is None:
        return []
    counts, rows = found["classes"], []
    for label in sorted(set(pred.tolist()), key=lambda k: (-counts[predictions.name(k)], k)):
        members = [k for k in np.argsort(-confidence, kind="stable") if pred[k] == label]
        items = [
            {
                "image": None if images is None else inline(images[k]),
                "text": None if texts is None else str(texts[k]),
                "confidence": f"{100 * confidence[k]:.0f} %",
            }
            for k in members
        ]
        name = predictions.name(label)
        rows.append({"name": name, "count": counts[name], "items": items})
    return rows


def changed_sentence(own: Predictions, base: Predictions) -> str | None:
    """Return how many target predictions differ from those of the source-only baseline.

    None unless both were made for the same samples.

    >>> names, target = ["a", "b"], np.array(["1", "2"])
    >>> one = Predictions({"target_pred": np.array([0, 1]), "target_name": target}, names)
    >>> other = Predictions({"target_pred": np.array([0, 0]), "target_name": target}, names)
    >>> changed_sentence(one, other)
    'The prediction differs from that of source-only for 1 of 2 target samples (50.0 %).'
    """
    arrays = [(one.arrays.get("target_pred"), one.arrays.get("target_name")) for one in (own, base)]
    (pred, names), (other, same) = arrays
    if pred is None or other is None or names is None or same is None or not len(pred):
        return None
    if not np.array_equal(names, same):
        return None
    number = int((pred != other).sum())
    return (
        f"The prediction differs from that of source-only for {number:,} of {len(pred):,} target "
        f"samples ({percent(number / len(pred))})."
    )
