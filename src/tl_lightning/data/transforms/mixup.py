"""Mixup and CutMix on batches, by torchvision, drawn from the batch's own seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from tl_lightning.errors import DataError, nearest

__all__ = ["Mixing"]

_KINDS: dict[str, Any] = {"mixup": v2.MixUp, "cutmix": v2.CutMix}


class Mixing:
    """Mix pictures of a batch with one another, and their labels in the same shares.

    Mixup: Zhang et al., ICLR 2018; CutMix: Yun et al., ICCV 2019.

    Args:
        alphas: Parameter of the Beta distribution by name, ``mixup`` or ``cutmix``, 0 for none;
            of two, each batch takes one at random.
        num_classes: Number of classes.

    Raises:
        DataError: If a name is unknown or an alpha is not a number of at least 0.
    """

    def __init__(self, alphas: Mapping[str, Any], num_classes: int) -> None:
        for name, alpha in alphas.items():
            if name not in _KINDS:
                raise DataError(f"data.mix has no kind {name!r}; {nearest(name, _KINDS)}")
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or alpha < 0:
                raise DataError(
                    f"data.mix.{name}={alpha} is no number of at least 0; type data.mix.{name}=0.2"
                )
        self.kinds = [
            _KINDS[name](alpha=float(alpha), num_classes=num_classes)
            for name, alpha in alphas.items()
            if alpha
        ]

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def __call__(self, pictures: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return mixed pictures, uint8 as they came, and label shares ``(B, K)``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the library draws from the global generator
            mixed, shares = v2.RandomChoice(self.kinds)(pictures.float(), labels)
        return mixed.round_().to(torch.uint8), shares
