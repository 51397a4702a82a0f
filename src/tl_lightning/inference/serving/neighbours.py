"""The labelled source samples that are most similar to a sample, with their images."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tl_lightning.data.io.images import UNREADABLE
from tl_lightning.inference.serving.answers import Model
from tl_lightning.reporting.run.page import inline
from tl_lightning.utils.plotting import jpeg

__all__ = ["Neighbours"]

Array = NDArray[Any]
#: Number of neighbours of a sample.
NEAREST = 5


@dataclass(frozen=True)
class Neighbours:
    """Source validation samples whose features the checkpoint stores.

    Attributes:
        features: float32 ``(M, D)`` of unit length.
        labels: ``(M,)``.
        classes: Class names.
        images: Their images ``(M, S, S, 3)``, or None.
        texts: Their beginnings, or None.
        missing: Why there are neither images nor texts; empty if there are.
    """

    features: Array
    labels: Array
    classes: tuple[str, ...]
    images: Array | None
    texts: list[str] | None
    missing: str

    @classmethod
    def of(cls, model: Model) -> Neighbours | None:
        """Return the neighbours of a model; None if its checkpoint stores no features.

        Images and texts are in ``neighbours.npz`` of the run's folder, not in the checkpoint: a
        checkpoint that is passed on should not contain the data.
        """
        stored = model.predictor.stored.reliability
        if not len(stored.get("features", ())) or "feature_labels" not in stored:
            return None
        features: torch.Tensor = stored["features"]
        labels = np.asarray(stored["feature_labels"], dtype=np.int64)
        digest = hashlib.sha256(features.numpy().tobytes()).hexdigest()
        images, texts, missing = _shown(model.run, digest, len(labels))
        rows = features.float().numpy()
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        known = np.isfinite(rows).all(axis=1)
        unit = np.where(known[:, None], rows / np.maximum(length, 1e-12), 0)
        return cls(unit, labels, model.predictor.classes, images, texts, missing)

    def nearest(self, features: Array) -> list[dict[str, Any]]:
        """Return the samples with the most similar features, the nearest first.

        Args:
            features: ``(D,)``.
        """
        unit = features / max(float(np.linalg.norm(features)), 1e-12)
        similar = self.features @ np.nan_to_num(unit)
        order = np.argsort(-similar, kind="stable")[:NEAREST]
        return [
            {
                "label": self.classes[int(self.labels[k])],
                "similarity": float(similar[k]),
                "image": None if self.images is None else inline(jpeg(self.images[k]), "jpeg"),
                "text": None if self.texts is None else self.texts[k],
            }
            for k in order
        ]


def _shown(
    run: Path | None, digest: str, number: int
) -> tuple[Array | None, list[str] | None, str]:
    """Return images or texts of the samples from the run's folder, or why there are none."""
    if run is None:
        return None, None, "they are in the folder of the run, and this file is elsewhere"
    file = run / "neighbours.npz"
    if not file.is_file():
        return None, None, "the folder of the run has none (neighbours.npz)"
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if str(arrays["features_sha256"]) != digest:
            return None, None, "those in the folder of the run belong to another checkpoint"
        images, texts = _images(arrays, number), _texts(arrays, number)
    except (*UNREADABLE, zipfile.BadZipFile):
        return None, None, "neighbours.npz in the folder of the run is damaged"
    return images, texts, ""


def _images(arrays: Mapping[str, Array], number: int) -> Array | None:
    """Return the images of a sheet with ``ceil(sqrt(number))`` in a row."""
    if "sprite" not in arrays:
        return None
    side, columns = int(arrays["side"]), math.ceil(math.sqrt(number))
    with Image.open(io.BytesIO(arrays["sprite"].tobytes()), formats=["JPEG"]) as image:
        sheet = np.asarray(image.convert("RGB"))
    places = (divmod(k, columns) for k in range(number))
    return np.stack([
        sheet[side * row : side * (row + 1), side * column : side * (column + 1)]
        for row, column in places
    ])  # fmt: skip


def _texts(arrays: Mapping[str, Array], number: int) -> list[str] | None:
    if "text" not in arrays:
        return None
    texts = [str(text) for text in arrays["text"]]
    if len(texts) != number:
        raise ValueError(f"{len(texts)} texts of {number} samples")
    return texts
