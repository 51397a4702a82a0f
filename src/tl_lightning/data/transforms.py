"""What happens to a picture on its way in; sizes and interpolation come from the backbone."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from tl_lightning.data.dataset import Transform
from tl_lightning.types import InputSpec

__all__ = ["Augment", "eval_transform", "resize_pixels", "train_transform"]

Augment = Literal["none", "light", "standard"]


def train_transform(spec: InputSpec, augment: Augment) -> Transform:
    """Return the training transform from uint8 ``(3, H, W)`` to uint8 ``(3, size, size)``.

    ``none`` is the evaluation transform; ``light`` a random resized crop of at least half the
    area and a horizontal flip, as the adaptation literature has it; ``standard`` adds colour
    jitter and crops down to 8 % of the area, as ImageNet training has it.
    """
    if augment == "none":
        return eval_transform(spec)
    scale = (0.5, 1.0) if augment == "light" else (0.08, 1.0)
    steps: list[Any] = [
        v2.RandomResizedCrop(spec.size, scale=scale, interpolation=_mode(spec), antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    if augment == "standard":
        steps.append(v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4))
    return cast(Transform, v2.Compose(steps))


def eval_transform(spec: InputSpec) -> Transform:
    """Return resize of the shorter side and centre crop, by the backbone's own ``crop_pct``."""
    shorter = round(spec.size / spec.crop_pct)
    return cast(
        Transform,
        v2.Compose(
            [
                v2.Resize(shorter, interpolation=_mode(spec), antialias=True),
                v2.CenterCrop(spec.size),
            ]
        ),
    )


def resize_pixels(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Resize pixels ``(N, H, W, 3)`` held in memory to the backbone's size; a no-op if they fit."""
    if pixels.shape[1:3] == (spec.size, spec.size):
        return pixels
    out = np.empty((len(pixels), spec.size, spec.size, 3), dtype=np.uint8)
    for start in range(0, len(pixels), 1024):
        chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 1024]))
        moved: Tensor = chunk.permute(0, 3, 1, 2).float()
        mode = "bicubic" if spec.interpolation == "bicubic" else "bilinear"
        size = (spec.size, spec.size)
        moved = functional.interpolate(moved, size, mode=mode, antialias=True)
        rounded = moved.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        out[start : start + 1024] = rounded.numpy()
    return out


def _mode(spec: InputSpec) -> Any:
    return InterpolationMode(spec.interpolation)
