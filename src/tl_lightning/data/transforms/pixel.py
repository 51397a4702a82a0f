"""Augmentation of small images in memory, and per-sample random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tl_lightning.utils.seeding import mix

__all__ = ["PixelAugment", "uniforms"]


def uniforms(seeds: Sequence[int], count: int, salt: int = 0) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1), ``(N, count)``; row ``i`` depends only on ``seeds[i]``.

    Uses SplitMix64 as a counter-based generator (Steele, Lea and Flood, OOPSLA 2014). It has no
    state, so a sample gets the same numbers in any batch, worker or rank. A different ``salt``
    gives different numbers for the same seeds.

    >>> bool((uniforms([5, 6], 3)[1] == uniforms([6], 3)[0]).all())
    True
    """
    state = np.asarray(seeds, dtype=np.uint64)[:, None]
    if salt:
        state = state ^ np.uint64(mix(salt))
    steps = np.arange(1, count + 1, dtype=np.uint64)[None, :]
    with np.errstate(over="ignore"):
        x = state + steps * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    out: NDArray[np.float64] = (x >> np.uint64(11)) * 2.0**-53
    return out


class PixelAugment:
    """Random shift, contrast, brightness and inversion of uint8 batches.

    Args:
        shift: Maximum shift in pixels in each direction, with border padding.
        contrast: Contrast is scaled by 1 +- ``contrast``, brightness shifted by half of that range.
        invert: Probability of inverting an image.
    """

    def __init__(self, *, shift: int, contrast: float, invert: float) -> None:
        self.shift = shift
        self.contrast = contrast
        self.invert = invert

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the augmented images, uint8 ``(B, C, H, W)``."""
        draws = torch.from_numpy(uniforms(seeds, 5)).float().to(images.device)
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
