"""Cropping, resizing and flipping of single images, with per-sample random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.io.images import resized, shorter_side
from tl_lightning.data.transforms.crops import resize_crops
from tl_lightning.data.transforms.uniforms import uniforms
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

__all__ = ["Centre", "Geometry", "Policy", "RandomCrop", "Transformed"]

_TRIES = 10
#: Largest ratio of the sides of an image that is resized as a whole.
LONGEST = 8


class Geometry(Protocol):
    """Transform of images of any size to one batch."""

    #: Whether the transform is the same every time, so that a downscaled copy is sufficient.
    fixed: bool
    #: Whether it uses global random state; it must then not run in several threads.
    global_rng: bool

    def __call__(self, images: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Write images ``(3, H, W)`` uint8 into ``out``, ``(B, S, S, 3)`` uint8."""
        ...


class Centre:
    """Evaluation transform: resize the shorter side and crop the centre by ``crop_pct``."""

    fixed = True
    global_rng = False

    def __init__(self, spec: InputSpec, flip: bool = False) -> None:
        self.spec = spec
        self.flip = flip
        self.shorter = shorter_side(spec)

    def __call__(self, images: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Fill ``out``; see :class:`Geometry`."""
        size = self.spec.size
        flips = uniforms(seeds, 1)[:, 0] < (0.5 if self.flip else 0.0)
        for index, image in enumerate(map(_middle, images)):
            if min(image.shape[-2:]) != self.shorter:
                image = resized(image, self.shorter, self.spec)
            top, left = (round((side - size) / 2) for side in image.shape[-2:])
            window = image[:, top : top + size, left : left + size]
            out[index] = (window.flip(-1) if flips[index] else window).permute(1, 2, 0)


def _middle(image: Tensor) -> Tensor:
    """Return the middle of a very long image, which is all that the centre crop depends on.

    Resizing the whole image would take memory in proportion to its length and the square of the
    enlargement: 11 GB for 60000 x 1 pixels.
    """
    sides = image.shape[-2:]
    for axis, (side, other) in enumerate(zip(sides, sides[::-1], strict=True), start=1):
        excess = side - LONGEST * other
        if excess > 0:  # an even number is cut off, so that the centre stays where it is
            image = image.narrow(axis, excess // 2, side - 2 * (excess // 2))
    return image


class RandomCrop:
    """Random resized crop and horizontal flip.

    Szegedy et al., "Going deeper with convolutions", CVPR 2015. The area is uniform in
    ``[area, 1]`` and the logarithm of the aspect ratio uniform in +-log(4/3); if ten boxes do not
    fit, the largest centred box within these ratios is used.
    """

    fixed = False
    global_rng = False

    def __init__(self, spec: InputSpec, area: float) -> None:
        self.spec = spec
        self.area = area

    def boxes(
        self, heights: NDArray[np.int64], widths: NDArray[np.int64], draws: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return ``(B, 4)``: top, left, height and width of each crop.

        Args:
            heights: ``(B,)`` heights of the images in pixels.
            widths: ``(B,)`` widths of the images in pixels.
            draws: ``(B, 22)`` random numbers in [0, 1).
        """
        height, width = heights[:, None].astype(float), widths[:, None].astype(float)
        area = self.area + (1 - self.area) * draws[:, :_TRIES]
        ratio = np.exp((2 * draws[:, _TRIES : 2 * _TRIES] - 1) * np.log(4 / 3))
        w = np.sqrt(area * height * width * ratio)
        h = np.sqrt(area * height * width / ratio)
        # The fallback comes after the tries and always fits. Boxes are rounded after the selection,
        # so that an image and its downscaled copy use the same one.
        h = np.concatenate([h, np.minimum(height, width * 4 / 3)], axis=1)
        w = np.concatenate([w, np.minimum(width, height * 4 / 3)], axis=1)
        first = ((h <= height) & (w <= width)).argmax(axis=1)
        rows = np.arange(len(first))
        h, w = (np.round(side[rows, first]).clip(1) for side in (h, w))
        corner = draws[:, -2:]
        centred = (first == _TRIES)[:, None]
        corner = np.where(centred, 0.5, corner)
        top = np.floor(corner[:, 0] * (heights - h + 1 - centred[:, 0]))
        left = np.floor(corner[:, 1] * (widths - w + 1 - centred[:, 0]))
        return np.stack([top, left, h, w], axis=1).astype(np.int64)

    def __call__(self, images: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Fill ``out``; see :class:`Geometry`."""
        sizes = np.array([image.shape[-2:] for image in images])
        draws = uniforms(seeds, 2 * _TRIES + 3)
        boxes = self.boxes(sizes[:, 0], sizes[:, 1], draws[:, :-1]).tolist()
        flips = (draws[:, -1] < 0.5).tolist()
        resize_crops(images, boxes, flips, out, self.spec.interpolation)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators of the CPU, and restore them afterwards."""
    # Not Lightning's isolate_rng: a loader process that is spawned would import Lightning for it.
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class Policy:
    """torchvision policy (RandAugment, TrivialAugment) seeded per sample, after ``first``."""

    fixed = False
    global_rng = True

    def __init__(self, first: Geometry, policy: Callable[[Tensor], Tensor]) -> None:
        self.first = first
        self.policy = policy

    def __call__(self, images: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Fill ``out``; see :class:`Geometry`."""
        self.first(images, seeds, out)
        for index, seed in enumerate(seeds):
            with seeded(seed):
                out[index] = self.policy(out[index].permute(2, 0, 1)).permute(1, 2, 0)


class Transformed:
    """The user's transform, seeded per sample; other sizes are resized and cropped afterwards.

    Args:
        spec: Input specification of the model.
        transform: Maps ``(3, H, W)`` uint8 of any size to uint8 of any size.

    Raises:
        DataError: If the transform returns anything else.
    """

    fixed = False
    global_rng = True

    def __init__(self, spec: InputSpec, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform
        self.centre = Centre(spec)
        self.shape = (3, spec.size, spec.size)
        side = 2 * spec.size
        self.apply(torch.zeros(3, side, side, dtype=torch.uint8), 0)

    def apply(self, image: Tensor, seed: int) -> Tensor:
        """Return the transformed image ``(3, H, W)`` uint8."""
        with seeded(seed):
            found = self.transform(image)
        if not isinstance(found, Tensor) or found.dtype != torch.uint8 or found.shape[:-2] != (3,):
            got = (
                f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
            )
            raise DataError(
                f"data.transform must return uint8 images (3, H, W), got {got}; leave out "
                "ToDtype, ToTensor and Normalize, as the model scales and normalises its input"
            )
        return found

    def __call__(self, images: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Fill ``out``; see :class:`Geometry`."""
        for index, (image, seed) in enumerate(zip(images, seeds, strict=True)):
            found = self.apply(image, seed)
            if found.shape == self.shape:
                out[index] = found.permute(1, 2, 0)
            else:
                self.centre([found], [seed], out[index : index + 1])
