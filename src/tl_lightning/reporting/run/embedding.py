"""Values of the interactive plot of a run's features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tl_lightning.reporting.artifacts import Array, Predictions
from tl_lightning.utils.plotting import CLASS_COLOURS

__all__ = ["MOST", "embedding"]

#: Maximum number of samples in the plot.
MOST = 2_000
DOMAINS = ("source", "target")
#: Coordinates are integers from 0 to this one.
SCALE = 1_000


def embedding(predictions: Predictions) -> dict[str, Any] | None:
    """Return the samples of the interactive plot, or None for runs that did not store them.

    ``points`` has one list of T values for each of: ``before`` and ``after`` (x and y as integers
    of 0 to 1000, alternating), ``domain`` (0 source, 1 target), ``true`` (-1 without a label),
    ``pred``, ``confidence`` in percent (None if it is not finite), ``name`` and, of texts,
    ``text``. ``sprite`` has the images (a JPEG file), of ``side`` pixels in ``columns`` columns, or
    is None.
    """
    arrays = predictions.arrays
    if not {"features_before", "features_after", "features_row", "thumbnails_point"} <= set(arrays):
        return None
    chosen = np.asarray(arrays["thumbnails_point"], dtype=int)[:MOST]
    total = len(arrays["features_row"])
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= total:
        return None
    domain = arrays["features_domain"][chosen].astype(int)
    row = arrays["features_row"][chosen].astype(int)
    columns = {
        kind: _column(arrays, kind, domain, row) for kind in ("true", "pred", "confidence", "name")
    }
    if any(values is None for values in columns.values()):
        return None
    points = {
        "before": _scaled(arrays["features_before"])[chosen].ravel().tolist(),
        "after": _scaled(arrays["features_after"])[chosen].ravel().tolist(),
        "domain": domain.tolist(),
        "true": [int(k) for k in columns["true"] or ()],
        "pred": [int(k) for k in columns["pred"] or ()],
        # JSON has no NaN.
        "confidence": [
            round(100 * float(k), 1) if math.isfinite(k) else None
            for k in columns["confidence"] or ()
        ],
        "name": [str(name) for name in columns["name"] or ()],
    }
    if "thumbnails_text" in arrays:
        points["text"] = [str(text) for text in arrays["thumbnails_text"]]
    sprite = arrays.get("thumbnails_sprite")
    names = [predictions.name(index) for index in range(predictions.num_classes)]
    return {
        "points": points,
        "classes": names,
        "colours": list(CLASS_COLOURS) if len(names) <= len(CLASS_COLOURS) else [],
        "total": total,
        "columns": math.ceil(math.sqrt(len(chosen))),
        "side": int(arrays["thumbnails_side"]) if sprite is not None else 0,
        "sprite": None if sprite is None else sprite.astype(np.uint8).tobytes(),
    }


def _column(arrays: dict[str, Array], kind: str, domain: Array, row: Array) -> list[Any] | None:
    """Return a value of every sample, or None if the predictions of a domain are missing."""
    values = []
    for index, place in zip(domain, row, strict=True):
        found = arrays.get(f"{DOMAINS[index]}_{kind}") if index in (0, 1) else None
        if found is None or not 0 <= place < len(found):
            return None
        values.append(found[place])
    return values


def _scaled(points: Array) -> Array:
    """Return coordinates as integers from 0 to 1000, the smallest one of each axis being 0.

    >>> _scaled(np.array([[0.0, 1.0], [2.0, 3.0], [1.0, 3.0]])).tolist()
    [[0, 0], [1000, 1000], [500, 1000]]
    """
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = SCALE * (points - low) / np.where(high > low, high - low, 1)
    whole: Array = np.nan_to_num(scaled).round().astype(int)
    return whole
