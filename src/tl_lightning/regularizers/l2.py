"""L2: half the sum of squared weights, as a term of the loss (Hoerl and Kennard 1970)."""

from __future__ import annotations

from torch import nn

from tl_lightning.regularizers.base import Regularizer, squares
from tl_lightning.types import Terms, Views

__all__ = ["L2"]


class L2(Regularizer):
    """``weight / 2 * sum w^2`` over the learning matrices and kernels of backbone and head.

    Hoerl, Kennard (1970): Ridge Regression. Technometrics 12(1). Its gradient ``weight * w`` goes
    through the optimizer like any other; with Adam that is not weight decay (Loshchilov, Hutter,
    ICLR 2019). Biases and the scales of normalisation are left out.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As there.
        weight: At least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, weight: float) -> None:
        super().__init__(backbone=backbone, task=task, weight=weight)
        self.weight = weight

    def forward(self, views: Views) -> Terms:
        """Return ``{"l2": term}``."""
        found = list(self.kernels()) if self.weight else []
        return {"l2": 0.5 * self.weight * squares(found)} if found else {}
