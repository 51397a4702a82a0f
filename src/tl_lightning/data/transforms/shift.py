"""Synthetic domain shift: a fixed corruption of every image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from tl_lightning.errors import DataError
from tl_lightning.utils.seeding import mix

__all__ = ["SyntheticShift", "gaussian_blur"]


class SyntheticShift:
    """Synthetic degradation of images: blur, brightness, saturation, tint and noise.

    A substitute for a second domain if there is none. It is not a real domain shift, so results
    must be reported as synthetic; see :meth:`describe`. The output depends only on the image and
    its key.

    Args:
        blur: Standard deviation of a Gaussian blur as a fraction of the shorter side, so that it is
            independent of the resolution; 0 for none.
        brightness: Brightness factor; 1 for no change.
        saturation: Saturation factor; 0 for grayscale, 1 for no change.
        tint: Factors of red, green and blue.
        noise: Standard deviation of Gaussian pixel noise as a fraction of full scale; 0 for none.
        seed: Seed of the noise, independent of the run's seed so that all runs share the domain.

    Raises:
        DataError: If a value is out of range.

    >>> shift = SyntheticShift(
    ...     blur=0.0, brightness=0.5, saturation=1.0, tint=(1.0, 1.0, 1.0), noise=0.0, seed=0
    ... )
    >>> shift(torch.full((3, 2, 2), 200, dtype=torch.uint8), key=7).unique().tolist()
    [100]
    """

    def __init__(
        self,
        *,
        blur: float,
        brightness: float,
        saturation: float,
        tint: Sequence[float],
        noise: float,
        seed: int,
    ) -> None:
        parts = {"blur": blur, "brightness": brightness, "saturation": saturation, "noise": noise}
        for name, value in parts.items():
            if not _is_valid(value):
                neutral = 1.0 if name in ("brightness", "saturation") else 0.0
                raise DataError(
                    f"{name} of the synthetic shift must be a number >= 0, got {value}; "
                    f"set data.target.shift.{name}={neutral}"
                )
        if not isinstance(tint, Sequence) or len(tint) != 3 or not all(map(_is_valid, tint)):
            raise DataError(
                f"tint of the synthetic shift must be three numbers >= 0, got {tint}; "
                "set data.target.shift.tint=[1.0,1.0,1.0]"
            )
        self.blur = blur
        self.brightness = brightness
        self.saturation = saturation
        self.tint = tuple(float(gain) for gain in tint)
        self.noise = noise
        self.seed = seed

    def __call__(self, image: Tensor, key: int) -> Tensor:
        """Return the shifted image.

        Args:
            image: uint8 ``(3, H, W)``.
            key: Number of the image; different keys yield different noise.

        Returns:
            uint8 ``(3, H, W)``.
        """
        shifted: Tensor = image.float() / 255.0
        if self.blur > 0:
            shifted = gaussian_blur(shifted, self.blur * min(image.shape[-2:]))
        shifted = functional.adjust_saturation(shifted, self.saturation)
        shifted = functional.adjust_brightness(shifted, self.brightness)
        shifted = shifted * torch.tensor(self.tint).view(3, 1, 1)
        if self.noise > 0:
            generator = torch.Generator().manual_seed(mix(self.seed, key))
            shifted = shifted + self.noise * torch.randn(shifted.shape, generator=generator)
        return (shifted * 255.0).round().clamp(0, 255).to(torch.uint8)

    def describe(self) -> str:
        """Return a one-line description for the report.

        >>> SyntheticShift(
        ...     blur=0.01, brightness=0.6, saturation=0.5, tint=[1, 1, 0.8], noise=0.05, seed=0
        ... ).describe()
        'synthetic shift: blur 1% of the shorter side, brightness x0.6, saturation x0.5, tint \
1/1/0.8, noise 5%, seed 0'
        """
        tint = "/".join(f"{gain:g}" for gain in self.tint)
        return (
            f"synthetic shift: blur {100 * self.blur:g}% of the shorter side, "
            f"brightness x{self.brightness:g}, saturation x{self.saturation:g}, tint {tint}, "
            f"noise {100 * self.noise:g}%, seed {self.seed}"
        )


def _is_valid(value: object) -> bool:
    # Command line overrides may be of any type.
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Return an image ``(3, H, W)`` of floats, blurred with this standard deviation in pixels."""
    # Separable: torchvision convolves with the full square kernel, which is 20 times slower.
    height, width = image.shape[-2:]
    # torchvision pads by reflection, so the kernel radius must be smaller than the image.
    radius = min(math.ceil(3 * sigma), min(height, width) - 1)
    if radius < 1:
        return image
    size = 2 * radius + 1
    rows: Tensor = functional.gaussian_blur(image, [size, 1], [sigma, sigma])
    blurred: Tensor = functional.gaussian_blur(rows, [1, size], [sigma, sigma])
    return blurred
