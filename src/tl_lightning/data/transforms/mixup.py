"""Mixup and CutMix of batches with torchvision, seeded per batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from tl_lightning.errors import DataError

__all__ = ["MixupCutMix"]


class MixupCutMix:
    """Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of images and labels.

    Args:
        mixup_alpha: Parameter of the Beta distribution of Mixup; 0 disables it.
        cutmix_alpha: Parameter of the Beta distribution of CutMix; 0 disables it. If both are
            positive, one of them is chosen at random for each batch.
        num_classes: Number of classes.

    Raises:
        DataError: If an alpha is negative.
    """

    def __init__(self, mixup_alpha: float, cutmix_alpha: float, num_classes: int) -> None:
        alphas = {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha}
        for key, alpha in alphas.items():
            if alpha < 0:
                raise DataError(
                    f"data.{key}={alpha} is negative; set data.{key}=0.2, or 0 for none"
                )
        self.kinds = [
            kind(alpha=float(alpha), num_classes=num_classes)
            for kind, alpha in ((v2.MixUp, mixup_alpha), (v2.CutMix, cutmix_alpha))
            if alpha
        ]

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return mixed uint8 images and soft labels ``(B, K)``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # torchvision uses the global generator
            mixed, soft_labels = v2.RandomChoice(self.kinds)(images.float(), labels)
        return mixed.round_().to(torch.uint8), soft_labels
