"""Small images of samples for reports."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tl_lightning.data.cache.features import split_digest
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.domain import Split
from tl_lightning.data.loaders import dataset_of
from tl_lightning.data.memory import remembered
from tl_lightning.data.transforms.geometry import Centre

__all__ = ["thumbnails"]

Pixels = NDArray[np.uint8]
#: Images per thread.
CHUNK = 32


def thumbnails(data: ImageDataModule, domain: str, split: Split, side: int) -> Pixels:
    """Return the middle squares ``(N, side, side, 3)`` of a split's images.

    They are read from the cache of decoded images if there is one; those of files are kept in
    memory for the next run of this process. Images in memory are not enlarged, so that theirs may
    be smaller.

    Args:
        data: The data module, prepared for a model.
        domain: Domain of the split.
        split: The samples, all of which are read.
        side: Height and width in pixels.
    """
    if isinstance(split.samples, np.ndarray):
        side = min(side, *split.samples.shape[1:3])
    spec = replace(data.input_spec, size=side, crop_pct=1.0)
    cache = data.caches.get(domain)
    dataset = dataset_of(split, spec, Centre(spec), cache)
    if cache is not None:  # fast, and the files may be gone
        return _read(dataset, len(split), side)
    key = ("thumbnails", split_digest(split), repr(spec))
    return remembered(key, lambda: _read(dataset, len(split), side))


def _read(dataset: Any, count: int, side: int) -> Pixels:
    """Return all images of a dataset ``(N, side, side, 3)``, read by several threads."""

    def chunk(start: int) -> torch.Tensor:
        keys = [(k, 0) for k in range(start, min(start + CHUNK, count))]
        images: torch.Tensor = dataset.__getitems__(keys)["inputs"]
        return images.permute(0, 2, 3, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(chunk, range(0, count, CHUNK)))
    found: Pixels = torch.cat(parts).numpy() if parts else np.zeros((0, side, side, 3), np.uint8)
    return found
