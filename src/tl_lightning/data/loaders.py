"""From a split to its dataset and its loader."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from tl_lightning.data.cache.images import CachedReader, PictureCache
from tl_lightning.data.datasets import (
    ArrayDataset,
    EvalDataset,
    PictureDataset,
    Reader,
    SplitReader,
    collate,
    resize_pixels,
)
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import shorter_side
from tl_lightning.data.threaded_loader import ThreadedLoader
from tl_lightning.data.transforms.geometry import Geometry
from tl_lightning.types import InputSpec

__all__ = ["dataset_of", "loader_of"]

#: Largest split, in bytes, that is resized as a whole beforehand.
IN_MEMORY = 1 << 29


def dataset_of(
    split: Split,
    spec: InputSpec,
    geometry: Geometry,
    cache: PictureCache | None,
    seeded: bool = False,
) -> PictureDataset | ArrayDataset:
    """Return the dataset of a split: from memory, from the cache, or from the files.

    Args:
        split: What it shows.
        spec: What the backbone expects.
        geometry: Crops the pictures.
        cache: Holds all of its pictures decoded, or None.
        seeded: Whether batches carry their samples' seeds.
    """
    if _fits_memory(split, spec, geometry):
        pixels = resize_pixels(np.asarray(split.pictures), spec)
        return ArrayDataset(replace(split, pictures=pixels), seeded)
    read: Reader
    if cache is not None:
        read = CachedReader(cache, split.names)
    else:
        read = SplitReader(split, shorter_side(spec) if geometry.fixed else None, spec)
    return PictureDataset(split, read, geometry, spec.size, seeded)


def _fits_memory(split: Split, spec: InputSpec, geometry: Geometry) -> bool:
    """Whether to resize the whole split beforehand: small pictures that nothing else moves."""
    small = len(split) * spec.size**2 * 3 <= IN_MEMORY
    still = geometry.fixed and split.change is None
    return isinstance(split.pictures, np.ndarray) and small and still


def loader_of(
    dataset: EvalDataset | PictureDataset | ArrayDataset,
    batch_size: int,
    sampler: Sampler[tuple[int, int]],
    num_workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """Return its loader.

    Files are decoded by worker processes, decoded pictures cropped by threads; a look-up in memory
    needs neither.
    """
    inner = dataset.dataset if isinstance(dataset, EvalDataset) else dataset
    if isinstance(inner, PictureDataset) and isinstance(inner.read, CachedReader):
        return ThreadedLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            pin_memory=pin_memory,
            threads=num_workers,
        )
    workers = 0 if isinstance(inner, ArrayDataset) else num_workers
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )
