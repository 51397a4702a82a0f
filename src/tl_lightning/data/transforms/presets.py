"""Named augmentation presets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from tl_lightning.data.transforms.batch import Affine, BatchChange, Colour, Erase
from tl_lightning.data.transforms.geometry import (
    Centre,
    Geometry,
    Policy,
    RandomCrop,
    Transformed,
)
from tl_lightning.data.transforms.pixel import PixelAugment
from tl_lightning.types import InputSpec

__all__ = ["Augment", "Augmentation", "augmentation"]

Augment = Literal[
    "none", "flip", "light", "crop", "standard", "strong", "randaugment", "trivialaugment",
    "shear_zoom_flip",
]  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """Both stages of an augmentation: per image in the workers, and per batch on the device."""

    geometry: Geometry
    batch: tuple[BatchChange, ...] = ()

    def finish(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Apply the batch stage, on the device of the images."""
        for change in self.batch:
            images = change(images, seeds)
        return images


def augmentation(
    spec: InputSpec,
    augment: Augment | Mapping[str, Any],
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Augmentation:
    """Return the augmentation of a preset, or of the arguments of :class:`PixelAugment`.

    With a ``transform`` that one is used instead, see :class:`Transformed`.

    ``none``: the evaluation transform. ``flip``: with a random flip. ``light``: random resized crop
    of at least half the area and flip. ``crop``: the same with at least 8% of the area, as common
    in domain adaptation. ``standard``: as ``crop``, with colour jitter, as in ImageNet training.
    ``strong``: as ``standard``, with stronger jitter, hue, random grayscale and erasing.
    ``randaugment``, ``trivialaugment``: torchvision's policies (Cubuk et al. 2020; Mueller and
    Hutter 2021) after random resized crop and flip. ``shear_zoom_flip``: shear up to 0.2 rad, zoom
    up to 20% and flip.
    """
    if transform is not None:
        return Augmentation(Transformed(spec, transform))
    if isinstance(augment, Mapping):
        return Augmentation(Centre(spec), (PixelAugment(**augment),))
    if augment == "none":
        return Augmentation(Centre(spec))
    if augment == "flip":
        return Augmentation(Centre(spec, flip=True))
    if augment == "light":
        return Augmentation(RandomCrop(spec, 0.5))
    if augment == "shear_zoom_flip":
        return Augmentation(Centre(spec, flip=True), (Affine(shear=0.2, zoom=0.2),))
    crop = RandomCrop(spec, 0.08)
    if augment == "crop":
        return Augmentation(crop)
    if augment == "standard":
        return Augmentation(crop, (Colour(jitter=0.4),))
    if augment == "strong":
        erase = Erase(probability=0.25, spec=spec)
        return Augmentation(crop, (Colour(jitter=0.5, hue=0.1, gray=0.2), erase))
    from torchvision.transforms import v2

    policy = v2.RandAugment() if augment == "randaugment" else v2.TrivialAugmentWide()
    return Augmentation(Policy(crop, policy))
