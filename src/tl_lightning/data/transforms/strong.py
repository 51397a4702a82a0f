"""Strongly augmented views for consistency training with a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tl_lightning.data.transforms.batch import Colour, Erase
from tl_lightning.types import InputSpec
from tl_lightning.utils.seeding import mix

__all__ = ["StrongView"]


class StrongView:
    """Strong colour jitter and erasing, applied on top of the weak view.

    Inspired by RandAugment and Cutout in FixMatch, but run on whole batches. Random numbers are
    drawn from the seed of the sample, independently of those of the weak view.
    """

    def __init__(self, spec: InputSpec) -> None:
        colour = Colour(jitter=0.8, hue=0.2, gray=0.2)
        self.changes = (colour, Erase(probability=1.0, spec=spec))

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the augmented uint8 images ``(B, 3, H, W)``."""
        strong_seeds = [mix(seed, 1) for seed in seeds]
        for change in self.changes:
            images = change(images, strong_seeds)
        return images
