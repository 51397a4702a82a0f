"""What happens to pictures on their way in; sizes and interpolation come from the backbone.

Two halves. The loader crops, resizes and flips (:class:`Centre`, :class:`RandomCrop`): pictures
differ in size, and a crop is the less to send the smaller it is. Colour, shear and erasing then run
on whole batches where the batch is, on the device (:class:`Colour`, :class:`Affine`,
:class:`Erase`). Every number is drawn from the sample's own seed, never from the process's random
state: the same with any number of workers or ranks, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.data.transforms.pixel import uniforms
from tl_lightning.types import InputSpec

__all__ = ["Affine", "BatchChange", "Colour", "Erase"]

#: From uint8 ``(B, 3, S, S)`` and the samples' seeds to the same form, on the batch's device.
BatchChange = Callable[[Tensor, Sequence[int]], Tensor]
#: Red, green and blue in gray (ITU-R BT.601), and the two colour axes of YIQ.
_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


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
