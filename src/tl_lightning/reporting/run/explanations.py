"""Explained predictions and examples of each class in a run's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tl_lightning.reporting.artifacts import Array, Predictions
from tl_lightning.reporting.formatting import percent

__all__ = ["class_examples", "explained", "overlay"]

DOMAINS = ("source", "target")
#: Classes with a row of examples, the worst first, and samples of each.
CLASSES, SAMPLES = 12, 12


def overlay(pixels: Array, heat: Array) -> Array:
    """Return an image ``(H, W, 3)`` with a map ``(h, w)`` in [0, 1] over it, as uint8.

    The image becomes gray, so that the colours are those of the map.
    """
    from matplotlib import colormaps
    from PIL import Image

    height, width = pixels.shape[:2]
    levels = Image.fromarray(np.uint8(255 * np.clip(heat.astype(np.float32), 0, 1)))
    smooth = np.asarray(levels.resize((width, height), Image.Resampling.BICUBIC)) / 255
    colour = 255 * colormaps["inferno"](smooth)[..., :3]
    gray = np.asarray(Image.fromarray(pixels).convert("L"), dtype=float)[..., None]
    mixed: Array = np.clip(0.55 * colour + 0.45 * gray, 0, 255).astype(np.uint8)
    return mixed


def explained(
    predictions: Predictions, plot: Mapping[str, Any] | None, image: Callable[[Array], str]
) -> dict[str, Any] | None:
    """Return the explained predictions, or None for runs that did not store them.

    Args:
        predictions: With ``explained_*``, see :class:`tl_lightning.callbacks.explanations`.
        plot: Result of :func:`.embedding.embedding`, which has the images of the neighbours.
        image: Maps pixels ``(H, W, 3)`` to the address of an image.
    """
    arrays = predictions.arrays
    if not {"explained_domain", "explained_row", "explained_image"} <= arrays.keys():
        return None
    domain = DOMAINS[int(arrays["explained_domain"]) % 2]
    rows, images = arrays["explained_row"].astype(int), arrays["explained_image"]
    true, pred, confidence, names = (
        arrays.get(f"{domain}_{kind}") for kind in ("true", "pred", "confidence", "name")
    )
    if true is None or pred is None or confidence is None or names is None or not len(rows):
        return None
    if min(rows) < 0 or max(rows) >= min(map(len, (true, pred, confidence, names))):
        return None
    maps, near = arrays.get("explained_map"), arrays.get("explained_near")
    items = [
        {
            "image": image(images[k]),
            "map": None if maps is None else image(overlay(images[k], maps[k])),
            "tiny": images[k].shape[0] < 64,
            "true": predictions.name(int(true[row])) if true[row] >= 0 else None,
            "pred": predictions.name(int(pred[row])),
            "wrong": bool(0 <= true[row] != pred[row]),
            "confidence": percent(float(confidence[row])),
            "name": str(names[row]),
            "near": [] if near is None else _neighbours(predictions, plot, near[k]),
        }
        for k, row in enumerate(rows[: len(images)])
    ]
    reason = arrays.get("explained_text")
    return {"domain": domain, "items": items, "reason": None if reason is None else str(reason[0])}


def _neighbours(
    predictions: Predictions, plot: Mapping[str, Any] | None, near: Array
) -> list[dict[str, Any]]:
    """Return the nearest source samples that have an image."""
    if plot is None or not plot["sprite"]:
        return []
    places = {int(point): k for k, point in enumerate(predictions.arrays["thumbnails_point"])}
    return [_sample(predictions, plot, places[k]) for k in map(int, near) if k in places]


def _sample(predictions: Predictions, plot: Mapping[str, Any], place: int) -> dict[str, Any]:
    points = plot["points"]
    true, pred, confidence = (points[kind][place] for kind in ("true", "pred", "confidence"))
    row, column = divmod(place, plot["columns"])
    return {
        "row": row,
        "column": column,
        "name": points["name"][place],
        "true": predictions.name(true) if true >= 0 else None,
        "pred": predictions.name(pred),
        "wrong": 0 <= true != pred,
        "confidence": "not finite" if confidence is None else f"{confidence} %",
    }


def class_examples(
    predictions: Predictions, plot: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Return projected samples of the classes with the lowest accuracy, errors first.

    Of the target if it has labels, else of the source.
    """
    if plot is None or not plot["sprite"]:
        return []
    counts = predictions.confusion("target")
    index = 1 if counts is not None else 0
    counts = predictions.confusion("source") if counts is None else counts
    points = plot["points"]
    members: dict[int, list[int]] = {}
    for place, (domain, true) in enumerate(zip(points["domain"], points["true"], strict=True)):
        if domain == index and true >= 0:
            members.setdefault(true, []).append(place)
    if counts is None or not members:
        return []
    total = counts.sum(axis=1)
    accuracy = {k: float(counts[k, k] / max(1, total[k])) for k in members}
    worst = sorted(members, key=lambda k: (accuracy[k], k))[:CLASSES]

    def order(place: int) -> tuple[bool, float]:
        wrong = points["true"][place] != points["pred"][place]
        return (not wrong, -(points["confidence"][place] or 0.0))

    return [
        {
            "domain": DOMAINS[index],
            "name": predictions.name(k),
            "accuracy": percent(accuracy[k]),
            "samples": int(total[k]),
            "items": [
                _sample(predictions, plot, p) for p in sorted(members[k], key=order)[:SAMPLES]
            ],
        }
        for k in worst
    ]
