"""Handwritten digits and the same kind of digits over photographs: real pictures, no download.

The source is scikit-learn's optical digits (UCI, 1,797 pictures of 8 x 8). The target takes other
digits of the same set over random patches of scikit-learn's two sample photographs, by the recipe
of MNIST-M (Ganin et al. 2016, JMLR 17(59), section 5.2.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.datamodules.image import PictureData
from tl_lightning.data.datamodules.mnistm import blend, enlarge
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.splits import with_labelled

__all__ = ["Digits"]

#: Fixed: the split and the patches are part of the data set, not of a run.
_SPLIT_SEED = 20160101
_SHARES = {
    "source": {"train": 0.3, "val": 0.1, "test": 0.1},
    "target": {"train": 0.3, "val": 0.1, "test": 0.1},
}


class Digits(PictureData):
    """``source``: grey digits; ``target``: disjoint digits over photographs.

    Args:
        size: Height and width of the pictures in pixels.
        sharpness: Steepness of the strokes' edges after enlarging.
        scale: Pixels of the photograph averaged into one pixel of the patch, along each side.
        target_copies: Every target digit stands over this many different patches.
        source: No settings; ``{}``.
        target: ``{labelled_per_class}``: so many training pictures of every class keep their labels
            (0: none); or None for the source alone.
        kwargs: As in :class:`PictureData`.
    """

    def __init__(
        self,
        *,
        size: int,
        sharpness: float,
        scale: int,
        target_copies: int,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.sharpness = sharpness
        self.scale = scale
        self.target_copies = target_copies
        self.target = target

    def domains(self) -> dict[str, Domain]:
        """Build both domains; every digit is in one split of one domain only."""
        from sklearn.datasets import load_digits, load_sample_images

        raw, labels = load_digits(return_X_y=True)
        digits = enlarge(raw.reshape(-1, 8, 8), size=self.size, sharpness=self.sharpness)
        places = _places(labels.astype(np.int64))
        grey = np.repeat(digits[..., None], 3, axis=3)
        found = {"source": _domain("digits", grey, labels, places["source"])}
        if self.target is not None:
            photos = load_sample_images().images
            copies = [
                blend(digits, photos, seed=_SPLIT_SEED + copy, scale=self.scale)
                for copy in range(self.target_copies)
            ]
            offsets = len(digits) * np.arange(len(copies))[:, None]
            found["target"] = _domain(
                "digits over photographs",
                np.concatenate(copies),
                np.tile(labels, len(copies)),
                {split: (offsets + at).ravel() for split, at in places["target"].items()},
            )
            count = self.target.get("labelled_per_class")  # absent in checkpoints of old
            if count:
                found["target"] = with_labelled(found["target"], count)
        return found


def _places(labels: NDArray[np.int64]) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Deal every class's digits to the splits of both domains in the same shares."""
    rng = np.random.default_rng(_SPLIT_SEED)
    dealt: dict[str, dict[str, list[NDArray[np.int64]]]] = {
        role: {split: [] for split in shares} for role, shares in _SHARES.items()
    }
    for label in range(10):
        order = rng.permutation(np.flatnonzero(labels == label))
        start = 0.0
        for role, shares in _SHARES.items():
            for split, share in shares.items():
                first, last = (round(x * len(order)) for x in (start, start + share))
                dealt[role][split].append(order[first:last])
                start += share
    return {
        role: {split: np.concatenate(parts) for split, parts in splits.items()}
        for role, splits in dealt.items()
    }


def _domain(
    name: str,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    places: dict[str, NDArray[np.int64]],
) -> Domain:
    whole = Split(pixels, labels.astype(np.int64), [f"digit{i:04d}" for i in range(len(pixels))])
    train, val, test = (whole.subset(places[split].tolist()) for split in ("train", "val", "test"))
    return Domain(name, tuple(str(i) for i in range(10)), train, val, test)
