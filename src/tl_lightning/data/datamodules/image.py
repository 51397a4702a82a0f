"""Base data module of images: augmentation, mixing, image cache and datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.cache.images import CacheSettings, worth_it
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datasets import ArrayDataset, ImageDataset
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import shorter_side
from tl_lightning.data.loaders import dataset_of
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.data.transforms.mixup import MixupCutMix
from tl_lightning.data.transforms.presets import Augment, augmentation
from tl_lightning.data.transforms.strong import StrongView
from tl_lightning.types import InputSpec, Spec
from tl_lightning.utils.seeding import mix as mix_seeds

__all__ = ["ImageDataModule"]


class ImageDataModule(TransferDataModule):
    """Images on disk or in memory; subclasses implement :meth:`domains`.

    Args:
        augment: Augmentation of training images: the name of a preset, see :func:`augmentation`,
            or for small images ``{shift, contrast, invert}``, see :class:`PixelAugment`.
        mixup_alpha: Mixup of source images and labels, see :class:`MixupCutMix`; 0 disables it.
        cutmix_alpha: CutMix of source images and labels; 0 disables it.
        kwargs: See :class:`TransferDataModule`.
    """

    has_strong = True
    spec: InputSpec | None

    def __init__(
        self,
        *,
        augment: Augment | Mapping[str, Any],
        mixup_alpha: float,
        cutmix_alpha: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.augment = augment
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha

    def attach(
        self,
        spec: Spec,
        train_on: tuple[str, ...],
        val_labels: tuple[str, ...],
        strong: bool = False,
    ) -> None:
        """Set up the transforms as well; see :meth:`TransferDataModule.attach`."""
        assert isinstance(spec, InputSpec)
        super().attach(spec, train_on, val_labels, strong)
        self.strong = StrongView(spec) if strong else None
        self.changes = augmentation(spec, self.augment)
        self.mixing = MixupCutMix(self.mixup_alpha, self.cutmix_alpha, len(self.classes))

    def cache(self, settings: CacheSettings, epochs: int) -> None:
        """Decode the images on disk into the cache if it pays off for ``epochs`` epochs.

        Raises:
            DataError: If an image cannot be read or the disk is full.
        """
        assert self.spec is not None, "call attach() before cache()"
        on_disk = {
            role: domain
            for role, domain in self.found.items()
            if not isinstance(domain.train.samples, np.ndarray)
        }
        paths = [path for domain in on_disk.values() for path in domain.paths()]
        shorter = settings.shorter_side or shorter_side(self.spec)
        if paths and worth_it(paths, shorter, settings, epochs):
            for role, domain in on_disk.items():
                name = f"{self.name}-{domain.name}"
                self.caches[role] = build_cache(domain.whole(), name, shorter, self.spec, settings)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish the augmentation of training batches on the device."""
        for role, part in batch.items() if "inputs" not in batch else ():
            self._finish(role, part)
        return batch

    def _finish(self, role: str, batch: Any) -> None:
        seeds = batch.pop("seeds", None)
        if seeds is not None:
            batch["inputs"] = self.changes.finish(batch["inputs"], seeds)
            if self.mixing and role == "source":
                batch["inputs"], batch["labels"] = self.mixing(
                    batch["inputs"], batch["labels"], mix_seeds(*seeds)
                )
            if self.strong is not None and role == "target":
                batch["strong"] = self.strong(batch["inputs"], seeds)

    def _dataset(self, role: str, split: Split, train: bool) -> ImageDataset | ArrayDataset:
        assert self.spec is not None, "call attach() before building loaders"
        cache = self.caches.get(role.removesuffix("_labelled"))
        if not train:
            return dataset_of(split, self.spec, Centre(self.spec), cache)
        return dataset_of(split, self.spec, self.changes.geometry, cache, self.seeded)

    @property
    def seeded(self) -> bool:
        """Whether training batches include the seeds of their samples."""
        return bool(self.changes.batch) or bool(self.mixing) or self.strong is not None
