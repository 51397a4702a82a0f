"""Handwritten digits, plain and over photographs, without a download.

The source is scikit-learn's optical digits (UCI, 1,797 images of 8 x 8). The target blends other
digits of the same dataset with random patches of scikit-learn's two sample photographs, similar to
MNIST-M (Ganin et al. 2016, JMLR 17(59), section 5.2.4). The source may consist of several domains,
disjoint digits of different looks. In contrast to MNIST-M, the digits are
blended with their grey values: their smooth edges remain visible as outlines, so this is an easier
set, whose results cannot be compared with those on MNIST-M.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tl_lightning.config.hints import at_least
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.datamodules.mnistm import blend, enlarge
from tl_lightning.data.datamodules.source_target import only_keys
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.few_labels import few_labels
from tl_lightning.data.splits import with_labelled
from tl_lightning.errors import DataError, nearest

__all__ = ["LOOKS", "DigitsDataModule"]

#: Fixed, as splits and patches are part of the dataset and not of a run.
_SPLIT_SEED = 20160101
_FRACTIONS = {
    "source": {"train": 0.3, "val": 0.1, "test": 0.1},
    "target": {"train": 0.3, "val": 0.1, "test": 0.1},
}


class DigitsDataModule(ImageDataModule):
    """Grey digits as the source, disjoint digits over photographs as the target.

    Args:
        size: Height and width of the images in pixels.
        sharpness: Sharpness of the edges after enlarging, see :func:`enlarge`.
        scale: Downsampling factor of the photographs, see :func:`blend`.
        target_copies: Number of different patches that every target digit is blended with.
        source: ``{domain}``: one of :data:`LOOKS`, or a list of them, which share the digits evenly
            and keep their names.
        target: ``{labelled_per_class}``: number of training images per class that keep their
            labels; None for no target.
        labelled_per_class: See :func:`.few_labels`.
        kwargs: See :class:`ImageDataModule`.
    """

    target_keys: ClassVar[frozenset[str]] = frozenset({"labelled_per_class"})

    def __init__(
        self,
        *,
        size: Annotated[int, at_least(1)],
        sharpness: Annotated[float, at_least(1)],
        scale: Annotated[int, at_least(1)],
        target_copies: Annotated[int, at_least(1)],
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        labelled_per_class: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        only_keys("data.source", source, {"domain"})
        only_keys("data.target", target or {}, set(self.target_keys))
        self.size = size
        self.sharpness = sharpness
        self.scale = scale
        self.target_copies = target_copies
        self.target = target
        self.labelled_per_class = labelled_per_class
        self.looks = _looks(source.get("domain"))

    def domains(self) -> dict[str, Domain]:
        """Build the domains; every digit is in only one split of one domain."""
        from sklearn.datasets import load_digits, load_sample_images

        raw, labels = load_digits(return_X_y=True)
        digits = enlarge(raw.reshape(-1, 8, 8), size=self.size, sharpness=self.sharpness)
        indices = _split_indices(labels.astype(np.int64))
        found = {"source": self._source(digits, labels, indices["source"])}
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
                {split: (offsets + at).ravel() for split, at in indices["target"].items()},
            )
            if count := self.target.get("labelled_per_class"):
                found["target"] = with_labelled(found["target"], count)
        return few_labels(found, self.labelled_per_class)

    def _source(
        self,
        digits: NDArray[np.uint8],
        labels: NDArray[np.int64],
        indices: dict[str, NDArray[np.int64]],
    ) -> Domain:
        """Return the source; of several looks, digit ``i`` has the look ``i % number``."""
        domains = np.arange(len(digits)) % len(self.looks)
        pixels = np.empty_like(digits)
        for number, name in enumerate(self.looks):
            pixels[domains == number] = LOOKS[name](digits[domains == number])
        grey = np.repeat(pixels[..., None], 3, axis=3)
        if len(self.looks) == 1:
            return _domain("digits", grey, labels, indices)
        marked = _domain("+".join(self.looks), grey, labels, indices, domains)
        return replace(marked, domains=tuple(self.looks))


def _tilted(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from scipy.ndimage import rotate

    turned: NDArray[np.uint8] = rotate(digits, 30, axes=(1, 2), reshape=False, order=1)
    return turned


def _looks(given: Any) -> list[str]:
    """Return the looks of the source.

    Raises:
        DataError: If one is unknown or given twice.
    """
    listed = given if isinstance(given, list) else ["plain" if given is None else given]
    names = [str(name) for name in listed]
    if wrong := [name for name in names if name not in LOOKS]:
        raise DataError(f"data.source.domain={wrong[0]} is not known; {nearest(wrong[0], LOOKS)}")
    if len(set(names)) < max(1, len(names)):
        raise DataError(
            f"data.source.domain=[{','.join(names)}] must name at least one look, each once; set "
            "data.source.domain=[plain,inverted]"
        )
    return names


#: Looks of the digits, by name.
LOOKS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "plain": lambda digits: digits,
    "inverted": lambda digits: 255 - digits,
    "tilted": _tilted,
}


def _split_indices(labels: NDArray[np.int64]) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Split the digits of every class across domains and splits by ``_FRACTIONS``."""
    rng = np.random.default_rng(_SPLIT_SEED)
    parts: dict[str, dict[str, list[NDArray[np.int64]]]] = {
        domain: {split: [] for split in fractions} for domain, fractions in _FRACTIONS.items()
    }
    for label in range(10):
        order = rng.permutation(np.flatnonzero(labels == label))
        start = 0.0
        for domain, fractions in _FRACTIONS.items():
            for split, fraction in fractions.items():
                first, last = (round(x * len(order)) for x in (start, start + fraction))
                parts[domain][split].append(order[first:last])
                start += fraction
    return {
        domain: {split: np.concatenate(arrays) for split, arrays in splits.items()}
        for domain, splits in parts.items()
    }


def _domain(
    name: str,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    indices: dict[str, NDArray[np.int64]],
    domains: NDArray[np.int64] | None = None,
) -> Domain:
    names = [f"digit{i:04d}" for i in range(len(pixels))]
    whole = Split(pixels, labels.astype(np.int64), names, domains=domains)
    train, val, test = (whole.subset(indices[split].tolist()) for split in ("train", "val", "test"))
    return Domain(name, tuple(str(i) for i in range(10)), train, val, test)
