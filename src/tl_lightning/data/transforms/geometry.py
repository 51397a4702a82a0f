"""Where in an image a crop lies and how it is resized, decided per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tl_lightning.data.io.images import resized, shorter_side
from tl_lightning.data.transforms.pixel import uniforms
from tl_lightning.types import InputSpec

__all__ = ["Centre", "Geometry", "RandomCrop"]

_TRIES = 10


class Geometry(Protocol):
    """From pictures of any size to one batch."""

    #: Whether it shows the whole picture alike each time, so that a shrunk copy serves as well.
    fixed: bool

    def __call__(self, pictures: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Write pictures ``(3, H, W)`` uint8 into ``out``, ``(B, S, S, 3)`` uint8."""
        ...


class Centre:
    """Evaluation: resize the shorter side, crop the centre, by the backbone's ``crop_pct``."""

    fixed = True

    def __init__(self, spec: InputSpec, flip: bool = False) -> None:
        self.spec = spec
        self.flip = flip
        self.shorter = shorter_side(spec)

    def __call__(self, pictures: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Fill ``out``; see :class:`Geometry`."""
        size = self.spec.size
        flips = uniforms(seeds, 1)[:, 0] < (0.5 if self.flip else 0.0)
        for place, picture in enumerate(pictures):
            if min(picture.shape[-2:]) != self.shorter:
                picture = resized(picture, self.shorter, self.spec)
            top, left = (round((side - size) / 2) for side in picture.shape[-2:])
            window = picture[:, top : top + size, left : left + size]
            out[place] = (window.flip(-1) if flips[place] else window).permute(1, 2, 0)


class RandomCrop:
    """Crop a random share of the area at a random aspect ratio, resize it, flip half of them.

    The random resized crop of Szegedy et al. ("Going deeper with convolutions", CVPR 2015): area
    uniform in ``[area, 1]``, logarithm of the aspect ratio uniform in +-log(4/3); after ten boxes
    that do not fit, the largest centred one within those ratios.
    """

    fixed = False

    def __init__(self, spec: InputSpec, area: float) -> None:
        self.spec = spec
        self.area = area

    def boxes(
        self, heights: NDArray[np.int64], widths: NDArray[np.int64], draws: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return ``(B, 4)``: top, left, height and width of each crop.

        Args:
            heights: ``(B,)``, the pictures' heights in pixels.
            widths: ``(B,)``.
            draws: ``(B, 22)`` numbers in [0, 1).
        """
        high, wide = heights[:, None].astype(float), widths[:, None].astype(float)
        share = self.area + (1 - self.area) * draws[:, :_TRIES]
        ratio = np.exp((2 * draws[:, _TRIES : 2 * _TRIES] - 1) * np.log(4 / 3))
        w = np.sqrt(share * high * wide * ratio)
        h = np.sqrt(share * high * wide / ratio)
        # The last resort stands behind the tries and always fits. Rounded only afterwards: a
        # picture and its shrunk copy must take the same try.
        h = np.concatenate([h, np.minimum(high, wide * 4 / 3)], axis=1)
        w = np.concatenate([w, np.minimum(wide, high * 4 / 3)], axis=1)
        first = ((h <= high) & (w <= wide)).argmax(axis=1)
        rows = np.arange(len(first))
        h, w = (np.round(side[rows, first]).clip(1) for side in (h, w))
        corner = draws[:, -2:]
        centred = (first == _TRIES)[:, None]
        corner = np.where(centred, 0.5, corner)
        top = np.floor(corner[:, 0] * (heights - h + 1 - centred[:, 0]))
        left = np.floor(corner[:, 1] * (widths - w + 1 - centred[:, 0]))
        return np.stack([top, left, h, w], axis=1).astype(np.int64)

    def __call__(self, pictures: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Fill ``out``; see :class:`Geometry`."""
        sizes = np.array([picture.shape[-2:] for picture in pictures])
        draws = uniforms(seeds, 2 * _TRIES + 3)
        boxes = self.boxes(sizes[:, 0], sizes[:, 1], draws[:, :-1]).tolist()
        flips = (draws[:, -1] < 0.5).tolist()
        size = (self.spec.size, self.spec.size)
        mode = self.spec.interpolation
        smooth = mode != "nearest"
        for place, (picture, (top, left, h, w)) in enumerate(zip(pictures, boxes, strict=True)):
            window = picture.permute(1, 2, 0)[None, top : top + h, left : left + w]
            if flips[place]:
                window = window.flip(2)
            # The kernel for whole bytes wants channels last without gaps: twice as fast, copy
            # included.
            window = window.contiguous().permute(0, 3, 1, 2)
            done = functional.interpolate(window, size, mode=mode, antialias=smooth)[0]
            out[place] = done.permute(1, 2, 0)


class Policy:
    """A policy of torchvision (RandAugment, TrivialAugment), drawn from each sample's seed."""

    fixed = False

    def __init__(self, first: Geometry, policy: Any) -> None:
        self.first = first
        self.policy = policy

    def __call__(self, pictures: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> None:
        """Fill ``out``; see :class:`Geometry`."""
        self.first(pictures, seeds, out)
        with torch.random.fork_rng(devices=[]):
            for place, seed in enumerate(seeds):
                torch.manual_seed(seed)  # the library draws from the global generator
                out[place] = self.policy(out[place].permute(2, 0, 1)).permute(1, 2, 0)
