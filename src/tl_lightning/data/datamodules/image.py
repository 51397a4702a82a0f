"""Base data module of images: augmentation, mixing, image cache and datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.cache.images import worth_it
from tl_lightning.data.checks.flat import flat_images
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.source_target import only_keys
from tl_lightning.data.datasets import ArrayDataset, ImageDataset
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.images import shorter_side
from tl_lightning.data.io.pixels import FLAT
from tl_lightning.data.loaders import dataset_of
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.data.transforms.mixup import MixupCutMix
from tl_lightning.data.transforms.presets import Augment, Augmentation, augmentation
from tl_lightning.data.transforms.strong import StrongView
from tl_lightning.types import InputSpec, Stream
from tl_lightning.utils.console import say
from tl_lightning.utils.seeding import mix as mix_seeds
from tl_lightning.utils.spread import spread
from tl_lightning.utils.text import shorten

__all__ = ["ImageDataModule"]

#: Number of images per domain that are searched for constant ones without a cache.
SAMPLED = 200
#: Size in pixels and channel statistics of ImageNet, for models that do not state their input.
DEFAULT_SIZE = 224
PIXEL_KEYS = {"shift", "zoom", "shear", "contrast", "invert"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageDataModule(TransferDataModule):
    """Images on disk or in memory; subclasses implement :meth:`domains`.

    Args:
        augment: Augmentation of training images: the name of a preset, see :func:`augmentation`,
            or for small images
            ``{shift, zoom, shear, contrast, invert}``, see :class:`PixelAugment`.
        mixup_alpha: Mixup of source images and labels, see :class:`MixupCutMix`; 0 disables it.
        cutmix_alpha: CutMix of source images and labels; 0 disables it.
        transform: Transform of training images in place of ``augment``, for instance of
            ``torchvision.transforms.v2``: maps ``(3, H, W)`` uint8 of any size to uint8; its
            result is resized and cropped if it does not have the model's input size.
        kwargs: See :class:`TransferDataModule`.
    """

    has_strong = True

    def __init__(
        self,
        *,
        augment: Augment | Mapping[str, Any],
        mixup_alpha: float,
        cutmix_alpha: float,
        transform: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(augment, Mapping):
            only_keys("data.augment", augment, PIXEL_KEYS, every=True)
        self.augment = augment
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.transform = transform
        #: Notes on the scale of the pixels and on constant images.
        self.pixel_notes: list[str] = []

    def default_spec(self) -> InputSpec:
        """Return 224 x 224 pixels, or the size of small images in memory."""
        samples = self.found["source"].train.samples
        size = samples.shape[1] if isinstance(samples, np.ndarray) else DEFAULT_SIZE
        return InputSpec(size, IMAGENET_MEAN, IMAGENET_STD)

    def prepare(self, needs: ModelNeeds | None = None, repeat_epoch: bool = False) -> None:
        """Set up the transforms as well; see :meth:`TransferDataModule.prepare`."""
        super().prepare(needs, repeat_epoch)
        for name in ("augmentation", "mixing", "strong"):
            vars(self).pop(name, None)

    @property
    def input_spec(self) -> InputSpec:
        """Input specification of the model."""
        spec = self.prepared.input_spec
        assert isinstance(spec, InputSpec)
        return spec

    @cached_property
    def augmentation(self) -> Augmentation:
        """Augmentation of training images."""
        return augmentation(self.input_spec, self.augment, self.transform)

    @cached_property
    def mixing(self) -> MixupCutMix:
        """Mixing of source images and labels."""
        return MixupCutMix(self.mixup_alpha, self.cutmix_alpha, len(self.classes))

    @cached_property
    def strong(self) -> StrongView | None:
        """Strongly augmented views of the target, or None if the model does not use them."""
        return StrongView(self.input_spec) if self.prepared.strong else None

    def cache_images(self, settings: CacheConfig, epochs: int) -> None:
        """Decode the images on disk into the cache if it pays off for ``epochs`` epochs.

        Raises:
            DataError: If an image cannot be read or the disk is full.
        """
        on_disk: dict[str, Domain] = {
            name: domain
            for name, domain in self.found.items()
            if not isinstance(domain.train.samples, np.ndarray)
        }
        paths = [path for domain in on_disk.values() for path in domain.paths()]
        spec = self.input_spec
        shorter = settings.shorter_side or shorter_side(spec)
        if paths and worth_it(paths, shorter, settings, epochs):
            for name, domain in on_disk.items():
                prefix = f"{self.name}-{domain.name}"
                self.caches[name] = build_cache(domain.whole(), prefix, shorter, spec, settings)
        for name, domain in on_disk.items():
            self._look_for_flat(name, domain.whole())

    def _look_for_flat(self, name: str, split: Split) -> None:
        """Note constant images, in the cache or in a part of the files without one."""
        cache = self.caches.get(name)
        places = range(len(split)) if cache else spread(len(split), SAMPLED)
        flat = flat_images(split, places, cache)
        if flat:
            self.pixel_notes.append(
                f"{len(flat)} of {len(places)} images of the {name} are constant or nearly so "
                f"(their values differ by at most {FLAT} of 255): {shorten(flat)}; if they should "
                "not be, look at data.max_value, or at images whose content is transparent or white"
            )
            say(f"warning: {self.pixel_notes[-1]}")

    def notes(self, pretrained: bool) -> list[str]:
        """Return the notes on the data to show in the report, also on constant images."""
        return [*super().notes(pretrained), *self.pixel_notes]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish the augmentation of training batches on the device."""
        for stream in Stream if "inputs" not in batch else ():
            if stream in batch:
                self._finish(stream, batch[stream])
        return batch

    def _finish(self, stream: Stream, batch: Any) -> None:
        seeds = batch.pop("seeds", None)
        if seeds is not None:
            batch["inputs"] = self.augmentation.finish(batch["inputs"], seeds)
            if self.mixing and stream is Stream.SOURCE:
                batch["inputs"], batch["labels"] = self.mixing(
                    batch["inputs"], batch["labels"], mix_seeds(*seeds)
                )
            if self.strong is not None and stream is Stream.TARGET:
                batch["strong"] = self.strong(batch["inputs"], seeds)

    def dataset(self, domain: str, split: Split, train: bool) -> ImageDataset | ArrayDataset:
        """Return the dataset of a split."""
        spec, cache = self.input_spec, self.caches.get(domain)
        if not train:
            return dataset_of(split, spec, Centre(spec), cache)
        return dataset_of(split, spec, self.augmentation.geometry, cache, self.seeded)

    @property
    def seeded(self) -> bool:
        """Whether training batches include the seeds of their samples."""
        return bool(self.augmentation.batch) or bool(self.mixing) or self.strong is not None
