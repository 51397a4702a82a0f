"""A synthetic second domain: the same fixed corruption of every picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from tl_lightning.errors import DataError
from tl_lightning.utils.seeding import mix

__all__ = ["SyntheticShift"]


class SyntheticShift:
    """Blur, darken, fade, tint and add noise: one camera seen through another, worse one.

    A stand-in for a second domain where none is at hand. It is no real domain shift, and whatever
    is measured on it must be called synthetic; :meth:`describe` says so. The same picture with the
    same key always comes out the same.

    Args:
        blur: Standard deviation of a Gaussian blur as a share of the picture's shorter side, so
            that it means the same at any resolution; 0 for none.
        brightness: Factor on the brightness; 1 changes nothing.
        saturation: Factor on the saturation; 0 is gray, 1 changes nothing.
        tint: Factors on red, green and blue.
        noise: Standard deviation of Gaussian noise on every pixel of the picture as stored, as a
            share of full scale; 0 for none.
        seed: Seed of the noise, apart from the run's seed: the domain is the same in every run.

    Raises:
        DataError: If a number is out of range.

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
            if not _usable(value):
                raise DataError(
                    f"a synthetic shift's {name} must be a number of at least 0, got {value}; "
                    f"type data.target.shift.{name}={1.0 if 'ness' in name else 0.0}"
                )
        if not isinstance(tint, Sequence) or len(tint) != 3 or not all(map(_usable, tint)):
            raise DataError(
                f"a synthetic shift's tint must be three gains of at least 0, got {tint}; "
                "type data.target.shift.tint=[1.0,1.0,1.0]"
            )
        self.blur = blur
        self.brightness = brightness
        self.saturation = saturation
        self.tint = tuple(float(gain) for gain in tint)
        self.noise = noise
        self.seed = seed

    def __call__(self, picture: Tensor, key: int) -> Tensor:
        """Return the changed picture.

        Args:
            picture: uint8 ``(3, H, W)``.
            key: The picture's own number: pictures of different keys get different noise.

        Returns:
            uint8 ``(3, H, W)``.
        """
        changed: Tensor = picture.float() / 255.0
        if self.blur > 0:
            changed = _blur(changed, self.blur * min(picture.shape[-2:]))
        changed = functional.adjust_saturation(changed, self.saturation)
        changed = functional.adjust_brightness(changed, self.brightness)
        changed = changed * torch.tensor(self.tint).view(3, 1, 1)
        if self.noise > 0:
            generator = torch.Generator().manual_seed(mix(self.seed, key))
            changed = changed + self.noise * torch.randn(changed.shape, generator=generator)
        return (changed * 255.0).round().clamp(0, 255).to(torch.uint8)

    def describe(self) -> str:
        """Return one line for the report.

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


def _usable(value: object) -> bool:
    # From the command line anything may come, words as well.
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _blur(picture: Tensor, sigma: float) -> Tensor:
    # Rows, then columns: the library convolves with the full square kernel, 20 times the work.
    height, width = picture.shape[-2:]
    # The library pads by reflection, which needs a kernel no wider than the picture.
    reach = min(math.ceil(3 * sigma), min(height, width) - 1)
    if reach < 1:
        return picture
    size = 2 * reach + 1
    rows: Tensor = functional.gaussian_blur(picture, [size, 1], [sigma, sigma])
    blurred: Tensor = functional.gaussian_blur(rows, [1, size], [sigma, sigma])
    return blurred
