"""Common corruptions of images at five severities, for tests of robustness.

Definitions and severities are those of Hendrycks and Dietterich, "Benchmarking neural network
robustness to common corruptions and perturbations", ICLR 2019 (their code for ImageNet-C).
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tl_lightning.data.transforms.shift import gaussian_blur
from tl_lightning.utils.seeding import mix, mix_text

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupted"]

SEVERITIES = (1, 2, 3, 4, 5)
#: Width in pixels of the images that the strengths of the blur are meant for.
WIDTH = 224


def _noise(image: Tensor, strength: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return image + strength * torch.randn(image.shape, generator=generator)


def _blurred(image: Tensor, strength: float, seed: int) -> Tensor:
    return gaussian_blur(image, strength * min(image.shape[-2:]) / WIDTH)


def _brighter(image: Tensor, strength: float, seed: int) -> Tensor:
    """Add to the value of the HSV colour; black, which has no hue, becomes grey."""
    value = image.amax(0)
    brighter = (value + strength).clamp(max=1)
    return torch.where(value > 0, image * (brighter / value.clamp(min=1e-6)), brighter)


def _flatter(image: Tensor, strength: float, seed: int) -> Tensor:
    mean = image.mean((1, 2), keepdim=True)
    return (image - mean) * strength + mean


def _jpeg(image: Tensor, strength: float, seed: int) -> Tensor:
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(strength))
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255


#: Function and strengths at severities 1 to 5: standard deviation of the noise and amount of
#: brightness as fractions of full scale, standard deviation of the blur in pixels of an image of
#: ``WIDTH``, factor of the contrast, quality of the JPEG file.
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float, int], Tensor], tuple[float, ...]]] = {
    "gaussian_noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "gaussian_blur": (_blurred, (1, 2, 3, 4, 6)),
    "brightness": (_brighter, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_flatter, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
}


def corrupted(image: Tensor, name: str, severity: int, key: int) -> Tensor:
    """Return a corrupted image, which depends only on the arguments.

    Args:
        image: uint8 ``(3, H, W)``.
        name: One of :data:`CORRUPTIONS`.
        severity: 1 (weak) to 5.
        key: Number of the image; different keys yield different noise.

    Returns:
        uint8 ``(3, H, W)``.

    >>> grey = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    >>> corrupted(grey, "brightness", 2, key=0).unique().tolist()
    [151]
    """
    change, strengths = CORRUPTIONS[name]
    seed = mix(mix_text(name), severity, key)
    changed = change(image.float() / 255, strengths[severity - 1], seed)
    return (changed * 255).round().clamp(0, 255).to(torch.uint8)
