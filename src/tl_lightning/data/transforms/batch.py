"""Batch augmentation on the device: colour jitter, affine transforms and random erasing.

Augmentation has two stages. Workers crop, resize and flip single images (:class:`Centre`,
:class:`RandomCrop`), because images differ in size and crops are cheaper to transfer. Colour, shear
and erasing (:class:`Colour`, :class:`Affine`, :class:`Erase`) then run on whole batches on the
device. All random numbers are drawn from the seed of the sample rather than from global random
state, so they do not depend on the number of workers or ranks, nor on whether a run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.data.transforms.uniforms import uniforms
from tl_lightning.types import InputSpec

__all__ = ["Affine", "BatchChange", "Colour", "Erase"]

#: Maps uint8 images ``(B, 3, S, S)`` and the samples' seeds to images of the same shape.
BatchChange = Callable[[Tensor, Sequence[int]], Tensor]
#: Weights of RGB in luma (ITU-R BT.601), and the matrix from RGB to YIQ.
_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class Colour:
    """Jitter of brightness, contrast, saturation and hue, and random grayscale.

    The factors are those of torchvision's ``ColorJitter``, but combined into one affine transform
    of the colours per image and applied to the whole batch: the order is fixed, values are clipped
    once at the end, and the hue is rotated in YIQ rather than HSV.

    Args:
        jitter: Brightness, contrast and saturation are scaled by factors in 1 +- ``jitter``.
        hue: Maximum rotation of the hue in either direction, as a fraction of a full circle.
        gray: Probability of converting an image to grayscale.
    """

    def __init__(self, *, jitter: float, hue: float = 0.0, gray: float = 0.0) -> None:
        self.jitter = jitter
        self.hue = hue
        self.gray = gray

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the augmented batch."""
        draws = torch.from_numpy(uniforms(seeds, 5, salt=1)).float().to(images.device)
        low = max(0.0, 1.0 - self.jitter)
        factors = low + (1.0 + self.jitter - low) * draws[:, :3]
        brightness, contrast, saturation = factors.unbind(1)
        saturation = torch.where(draws[:, 4] < self.gray, 0.0, saturation)
        angle = 2 * torch.pi * self.hue * (2 * draws[:, 3] - 1)
        yiq = torch.tensor(_YIQ, device=images.device)
        rotation = torch.zeros(len(images), 3, 3, device=images.device)
        rotation[:, 0, 0] = 1.0
        rotation[:, 1, 1] = rotation[:, 2, 2] = saturation * angle.cos()
        rotation[:, 2, 1] = saturation * angle.sin()
        rotation[:, 1, 2] = -rotation[:, 2, 1]
        matrix = torch.linalg.inv(yiq) @ rotation @ yiq * (brightness * contrast)[:, None, None]
        pixels = images.flatten(2).float()
        mean = (pixels.mean(2) * torch.tensor(_LUMA, device=pixels.device)).sum(1)
        offset = (1 - contrast) * brightness * mean
        jittered = torch.baddbmm(offset[:, None, None], matrix, pixels)
        return jittered.round_().clamp_(0, 255).to(torch.uint8).view(images.shape)


class Affine:
    """Random shear and zoom about the centre, with border padding.

    Args:
        shear: Maximum shear angle in radians, in either direction.
        zoom: Height and width are scaled independently by factors in 1 +- ``zoom``.
    """

    def __init__(self, *, shear: float, zoom: float) -> None:
        self.shear = shear
        self.zoom = zoom

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the augmented batch."""
        draws = 2 * torch.from_numpy(uniforms(seeds, 3, salt=2)).float().to(images.device) - 1
        angle = self.shear * draws[:, 0]
        zoom_y, zoom_x = 1 + self.zoom * draws[:, 1], 1 + self.zoom * draws[:, 2]
        theta = torch.zeros(len(images), 2, 3, device=images.device)
        theta[:, 0, 0] = zoom_x
        theta[:, 0, 1] = -zoom_y * angle.sin()
        theta[:, 1, 1] = zoom_y * angle.cos()
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        warped = functional.grid_sample(
            images.float(), grid, padding_mode="border", align_corners=False
        )
        return warped.round_().clamp_(0, 255).to(torch.uint8)


class Erase:
    """Random erasing: fill a random box of 2% to 33% of the area with the backbone's mean colour.

    Zhong et al., AAAI 2020; aspect ratios are between 0.3 and 3.3.
    """

    def __init__(self, *, probability: float, spec: InputSpec) -> None:
        self.probability = probability
        self.colour = [round(255 * value) for value in spec.mean]

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the augmented batch."""
        draws = torch.from_numpy(uniforms(seeds, 5, salt=3)).float().to(images.device)
        height, width = images.shape[-2:]
        area = (0.02 + 0.31 * draws[:, 1]) * height * width
        ratio = torch.exp((2 * draws[:, 2] - 1) * float(np.log(3.3)))
        h, w = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
        top, left = draws[:, 3] * (height - h), draws[:, 4] * (width - w)
        rows = torch.arange(height, device=images.device)[None, :]
        columns = torch.arange(width, device=images.device)[None, :]
        inside_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
        inside_columns = (columns >= left[:, None]) & (columns < (left + w)[:, None])
        erased = (draws[:, 0] < self.probability)[:, None, None]
        box = (inside_rows[:, :, None] & inside_columns[:, None, :] & erased)[:, None]
        colour = torch.tensor(self.colour, dtype=torch.uint8, device=images.device)
        return torch.where(box, colour.view(1, -1, 1, 1), images)
