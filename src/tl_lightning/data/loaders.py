"""Factories for the dataset and the data loader of a split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from tl_lightning.data.cache.images import CachedReader, ImageCache
from tl_lightning.data.datasets import (
    ArrayDataset,
    EvalDataset,
    ImageDataset,
    Reader,
    SplitReader,
    collate,
    resize_pixels,
)
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import shorter_side
from tl_lightning.data.threaded_loader import ThreadedLoader
from tl_lightning.data.transforms.geometry import Geometry
from tl_lightning.errors import ConfigError
from tl_lightning.types import InputSpec

__all__ = ["check_trainer", "dataset_of", "loader_of"]

#: Maximum size in bytes of splits that are resized in advance and kept in memory.
IN_MEMORY = 1 << 29


def dataset_of(
    split: Split,
    spec: InputSpec,
    geometry: Geometry,
    cache: ImageCache | None,
    seeded: bool = False,
) -> ImageDataset | ArrayDataset:
    """Return the dataset of a split, which reads from memory, the cache or the files.

    Args:
        split: The split.
        spec: Input specification of the backbone.
        geometry: Cropping and resizing.
        cache: Cache with all images of the split, or None.
        seeded: Whether batches contain the seeds of their samples.
    """
    if _fits_memory(split, spec, geometry):
        pixels = resize_pixels(np.asarray(split.samples), spec)
        return ArrayDataset(replace(split, samples=pixels), seeded)
    read: Reader
    if cache is not None:
        read = CachedReader(cache, split.names)
    else:
        read = SplitReader(split, shorter_side(spec) if geometry.fixed else None, spec)
    return ImageDataset(split, read, geometry, spec.size, seeded)


def _fits_memory(split: Split, spec: InputSpec, geometry: Geometry) -> bool:
    """Return whether to resize the split in advance: small, in memory, and not transformed."""
    small = len(split) * spec.size**2 * 3 <= IN_MEMORY
    constant = geometry.fixed and split.change is None
    return isinstance(split.samples, np.ndarray) and small and constant


def loader_of(
    dataset: EvalDataset | ImageDataset | ArrayDataset,
    batch_size: int,
    sampler: Sampler[tuple[int, int]],
    num_workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """Return the data loader of a dataset.

    Files are decoded in worker processes and cached images are cropped in threads, unless the
    augmentation uses global random state; datasets in memory need neither.
    """
    inner = dataset.dataset if isinstance(dataset, EvalDataset) else dataset
    if (
        isinstance(inner, ImageDataset)
        and isinstance(inner.read, CachedReader)
        and not inner.geometry.global_rng
    ):
        return ThreadedLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            pin_memory=pin_memory,
            threads=num_workers,
        )
    workers = 0 if isinstance(inner, ArrayDataset) else num_workers
    spawns = workers > 0 and isinstance(inner, ImageDataset) and inner.remote
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if spawns else None,
    )


def check_trainer(trainer: Any) -> None:
    """Raise ConfigError if a trainer on several devices would replace the samplers."""
    connector: Any = getattr(trainer, "_accelerator_connector", None)
    if connector is not None and connector.is_distributed and connector.use_distributed_sampler:
        raise ConfigError(
            "on several devices the data module distributes the samples over the ranks itself; "
            "pass use_distributed_sampler=False to lightning.Trainer"
        )
