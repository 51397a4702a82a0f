"""L1: the sum of absolute weights, which drives many of them towards 0 (Tibshirani 1996)."""

from __future__ import annotations

import torch
from torch import nn

from tl_lightning.regularizers.base import Regularizer
from tl_lightning.types import Terms, Views

__all__ = ["L1"]


class L1(Regularizer):
    """``weight * sum |w|`` over the learning matrices and kernels of backbone and head.

    Tibshirani (1996): Regression Shrinkage and Selection via the Lasso. JRSS B 58(1). Biases and
    the scales of normalisation are left out.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As there.
        weight: At least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, weight: float) -> None:
        super().__init__(backbone=backbone, task=task, weight=weight)
        self.weight = weight

    def forward(self, views: Views) -> Terms:
        """Return ``{"l1": term}``."""
        found = [w.float().abs().sum() for w in self.kernels()] if self.weight else []
        return {"l1": self.weight * torch.stack(found).sum()} if found else {}
