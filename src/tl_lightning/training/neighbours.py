"""Source validation samples as ``tl-demo`` shows them beside a prediction."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.callbacks.explanations import EXCERPT, sprite_of
from tl_lightning.callbacks.selected_outputs import SelectedOutputs
from tl_lightning.data.thumbnails import thumbnails
from tl_lightning.utils.plotting import jpeg

__all__ = ["neighbour_arrays"]


def neighbour_arrays(outputs: SelectedOutputs, data: Any, side: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of ``neighbours.npz``: the samples whose features the checkpoint stores.

    ``features_sha256`` is the checksum of these features, ``name`` (M,) are the samples' names.
    ``sprite`` is a JPEG file with their images, square and ``side`` pixels wide, in rows of
    ``ceil(sqrt(M))``; of texts, ``text`` are the beginnings. Empty without source validation, and
    for vectors and streams.

    Args:
        outputs: Those of the tested model.
        data: The data module that was tested.
        side: Height and width in pixels; images in memory are not enlarged.
    """
    record, rows = outputs.record(), outputs.recorded()
    if not record or not data.storable or data.gives not in ("images", "texts"):
        return {}
    split = data.found["source"].val.without_labels().subset(rows)
    digest = hashlib.sha256(record["features"].numpy().tobytes()).hexdigest()
    found = {"features_sha256": np.array(digest), "name": np.array(list(map(str, split.names)))}
    if data.gives == "texts":
        texts = [" ".join(str(text)[: 2 * EXCERPT].split())[:EXCERPT] for text in split.samples]
        return {**found, "text": np.array(texts)}
    images = thumbnails(data, "source", split, side)
    sprite = jpeg(sprite_of(list(images), images.shape[1]))
    return {
        **found, "side": np.array(images.shape[1]), "sprite": np.frombuffer(sprite, dtype=np.uint8)
    }  # fmt: skip
