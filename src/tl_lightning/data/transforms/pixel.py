"""Augmentation of small images in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.data.transforms.batch import Affine
from tl_lightning.data.transforms.uniforms import uniforms

__all__ = ["PixelAugment"]


class PixelAugment:
    """Random zoom, shear, shift, contrast, brightness and inversion of uint8 batches.

    Args:
        shift: Maximum shift in pixels in each direction, with border padding.
        zoom: Height and width are scaled by factors in 1 +- ``zoom``, see :class:`Affine`.
        shear: Maximum shear angle in radians, in either direction.
        contrast: Contrast is scaled by 1 +- ``contrast``, brightness shifted by half of that range.
        invert: Probability of inverting an image.
    """

    def __init__(
        self, *, shift: int, zoom: float, shear: float, contrast: float, invert: float
    ) -> None:
        self.shift = shift
        self.affine = Affine(shear=shear, zoom=zoom) if shear or zoom else None
        self.contrast = contrast
        self.invert = invert

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the augmented images, uint8 ``(B, C, H, W)``."""
        draws = torch.from_numpy(uniforms(seeds, 5)).float().to(images.device)
        if self.affine is not None:
            images = self.affine(images, seeds)
        if self.shift:
            images = self._shifted(images, draws[:, :2])
        if self.invert:
            flip = (draws[:, 2] < self.invert).view(-1, 1, 1, 1)
            images = torch.where(flip, 255 - images, images)
        if self.contrast:
            scale = (1 + self.contrast * (2 * draws[:, 3] - 1)).view(-1, 1, 1, 1)
            offset = (255 * self.contrast * (draws[:, 4] - 0.5)).view(-1, 1, 1, 1)
            jittered = (images.float() - 127.5) * scale + 127.5 + offset
            images = jittered.round().clamp(0, 255).to(torch.uint8)
        return images

    def _shifted(self, images: Tensor, draws: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        s = self.shift
        padded = functional.pad(images.float(), (s, s, s, s), mode="replicate").to(torch.uint8)
        corner = (draws * (2 * s + 1)).long()

        def count(number: int) -> Tensor:
            return torch.arange(number, device=images.device)

        rows = (corner[:, :1] + count(height)).view(n, 1, height, 1)
        columns = (corner[:, 1:] + count(width)).view(n, 1, 1, width)
        sample = count(n).view(n, 1, 1, 1)
        return padded[sample, count(channels).view(1, -1, 1, 1), rows, columns]
