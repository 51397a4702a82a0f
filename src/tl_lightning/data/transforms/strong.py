"""The strong view of a picture that a teacher has seen weakly changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tl_lightning.data.transforms.batch import Colour, Erase
from tl_lightning.types import InputSpec
from tl_lightning.utils.seeding import mix

__all__ = ["StrongView"]


class StrongView:
    """Strong colour and a painted box, on top of what the weak view has already had.

    In the spirit of FixMatch's RandAugment and Cutout, with changes that run on whole batches.
    Numbers are drawn from each sample's own seed, apart from those of the weak view.
    """

    def __init__(self, spec: InputSpec) -> None:
        colour = Colour(jitter=0.8, hue=0.2, gray=0.2)
        self.changes = (colour, Erase(probability=1.0, spec=spec))

    def __call__(self, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return uint8 pictures ``(B, 3, H, W)``, changed."""
        own = [mix(seed, 1) for seed in seeds]
        for change in self.changes:
            pictures = change(pictures, own)
        return pictures
