"""What happens to pictures on their way in; sizes and interpolation come from the backbone.

Two halves. The loader crops, resizes and flips (:class:`Centre`, :class:`RandomCrop`): pictures
differ in size, and a crop is the less to send the smaller it is. Colour, shear and erasing then run
on whole batches where the batch is, on the device (:class:`Colour`, :class:`Affine`,
:class:`Erase`). Every number is drawn from the sample's own seed, never from the process's random
state: the same with any number of workers or ranks, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tl_lightning.data.pixels import PixelAugment, uniforms
from tl_lightning.data.reading import resized, shorter_side
from tl_lightning.types import InputSpec

__all__ = [
    "Affine",
    "Augment",
    "BatchChange",
    "Centre",
    "Colour",
    "Erase",
    "Geometry",
    "RandomCrop",
    "augmentation",
]

Augment = Literal[
    "none", "light", "standard", "strong", "randaugment", "trivialaugment", "shear_zoom_flip"
]
#: From uint8 ``(B, 3, S, S)`` and the samples' seeds to the same form, on the batch's device.
BatchChange = Callable[[Tensor, Sequence[int]], Tensor]
#: Red, green and blue in gray (ITU-R BT.601), and the two colour axes of YIQ.
_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
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


class Colour:
    """Brightness, contrast, saturation, hue and gray: one affine map of colours a picture.

    The factors are those of torchvision's ``ColorJitter``. Here they make one 3 x 3 matrix and one
    offset, applied to a whole batch at once; the order is fixed, values are clipped once at the
    end, and the hue is turned in YIQ rather than HSV.

    Args:
        jitter: Brightness, contrast and saturation are scaled by up to 1 +- this.
        hue: The hue is turned by up to this share of a circle either way.
        gray: Probability that a picture loses its colour.
    """

    def __init__(self, *, jitter: float, hue: float = 0.0, gray: float = 0.0) -> None:
        self.jitter = jitter
        self.hue = hue
        self.gray = gray

    def __call__(self, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the changed batch."""
        draws = torch.from_numpy(uniforms(seeds, 5, salt=1)).float().to(pictures.device)
        low = max(0.0, 1.0 - self.jitter)
        bright, contrast, saturation = (low + (1.0 + self.jitter - low) * draws[:, :3]).unbind(1)
        saturation = torch.where(draws[:, 4] < self.gray, 0.0, saturation)
        angle = 2 * torch.pi * self.hue * (2 * draws[:, 3] - 1)
        yiq = torch.tensor(_YIQ, device=pictures.device)
        turn = torch.zeros(len(pictures), 3, 3, device=pictures.device)
        turn[:, 0, 0] = 1.0
        turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
        turn[:, 2, 1] = saturation * angle.sin()
        turn[:, 1, 2] = -turn[:, 2, 1]
        matrix = torch.linalg.inv(yiq) @ turn @ yiq * (bright * contrast)[:, None, None]
        flat = pictures.flatten(2).float()
        mean = (flat.mean(2) * torch.tensor(_LUMA, device=flat.device)).sum(1)
        offset = (1 - contrast) * bright * mean
        changed = torch.baddbmm(offset[:, None, None], matrix, flat)
        return changed.round_().clamp_(0, 255).to(torch.uint8).view(pictures.shape)


class Affine:
    """Shear and zoom about the centre; what comes into view repeats the border.

    Args:
        shear: Largest shear angle in radians, either way.
        zoom: Height and width are scaled by factors within 1 +- this, each by its own.
    """

    def __init__(self, *, shear: float, zoom: float) -> None:
        self.shear = shear
        self.zoom = zoom

    def __call__(self, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the changed batch."""
        draws = 2 * torch.from_numpy(uniforms(seeds, 3, salt=2)).float().to(pictures.device) - 1
        angle = self.shear * draws[:, 0]
        high, wide = 1 + self.zoom * draws[:, 1], 1 + self.zoom * draws[:, 2]
        theta = torch.zeros(len(pictures), 2, 3, device=pictures.device)
        theta[:, 0, 0] = wide
        theta[:, 0, 1] = -high * angle.sin()
        theta[:, 1, 1] = high * angle.cos()
        grid = functional.affine_grid(theta, list(pictures.shape), align_corners=False)
        moved = functional.grid_sample(
            pictures.float(), grid, padding_mode="border", align_corners=False
        )
        return moved.round_().clamp_(0, 255).to(torch.uint8)


class Erase:
    """Paint a random box of 2 to 33 % of the area in the backbone's mean colour.

    Random erasing of Zhong et al. (AAAI 2020), at aspect ratios of 0.3 to 3.3.
    """

    def __init__(self, *, probability: float, spec: InputSpec) -> None:
        self.probability = probability
        self.colour = [round(255 * value) for value in spec.mean]

    def __call__(self, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the changed batch."""
        draws = torch.from_numpy(uniforms(seeds, 5, salt=3)).float().to(pictures.device)
        height, width = pictures.shape[-2:]
        area = (0.02 + 0.31 * draws[:, 1]) * height * width
        ratio = torch.exp((2 * draws[:, 2] - 1) * float(np.log(3.3)))
        h, w = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
        top, left = draws[:, 3] * (height - h), draws[:, 4] * (width - w)
        rows = torch.arange(height, device=pictures.device)[None, :]
        columns = torch.arange(width, device=pictures.device)[None, :]
        inside_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
        inside_columns = (columns >= left[:, None]) & (columns < (left + w)[:, None])
        chosen = (draws[:, 0] < self.probability)[:, None, None]
        box = (inside_rows[:, :, None] & inside_columns[:, None, :] & chosen)[:, None]
        colour = torch.tensor(self.colour, dtype=torch.uint8, device=pictures.device)
        return torch.where(box, colour.view(1, -1, 1, 1), pictures)


@dataclass(frozen=True)
class Augmentation:
    """Both halves: in the loader, and on the batch."""

    geometry: Geometry
    batch: tuple[BatchChange, ...] = ()

    def finish(self, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
        """Apply the second half where the pictures are."""
        for change in self.batch:
            pictures = change(pictures, seeds)
        return pictures


def augmentation(spec: InputSpec, augment: Augment | Mapping[str, Any]) -> Augmentation:
    """Return what a name (or the arguments of :class:`PixelAugment`) stands for.

    ``none``: as in evaluation. ``light``: a random resized crop of at least half the area and a
    flip, as the adaptation literature has it. ``standard``: crops down to 8 %, flip and colour, as
    ImageNet training has it. ``strong``: stronger colour with hue and gray, and erasing.
    ``randaugment``, ``trivialaugment``: those policies of torchvision (Cubuk et al. 2020; Mueller
    and Hutter 2021) after crop and flip. ``shear_zoom_flip``: shear up to 0.2 rad, zoom up to
    20 % and flip.
    """
    if isinstance(augment, Mapping):
        return Augmentation(Centre(spec), (PixelAugment(**augment),))
    if augment == "none":
        return Augmentation(Centre(spec))
    if augment == "light":
        return Augmentation(RandomCrop(spec, 0.5))
    if augment == "shear_zoom_flip":
        return Augmentation(Centre(spec, flip=True), (Affine(shear=0.2, zoom=0.2),))
    crop = RandomCrop(spec, 0.08)
    if augment == "standard":
        return Augmentation(crop, (Colour(jitter=0.4),))
    if augment == "strong":
        erase = Erase(probability=0.25, spec=spec)
        return Augmentation(crop, (Colour(jitter=0.5, hue=0.1, gray=0.2), erase))
    from torchvision.transforms import v2

    policy = v2.RandAugment() if augment == "randaugment" else v2.TrivialAugmentWide()
    return Augmentation(Policy(crop, policy))
