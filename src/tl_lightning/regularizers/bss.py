"""BSS: batch spectral shrinkage, against features that do not transfer.

Chen, Wang, Fu, Long, Wang (2019): Catastrophic Forgetting Meets Negative Transfer: Batch Spectral
Shrinkage for Safe Transfer Learning. NeurIPS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tl_lightning.regularizers.base import Regularizer
from tl_lightning.types import Terms, Views

__all__ = ["BSS", "spectral_tail"]


def spectral_tail(features: Tensor, k: int) -> Tensor:
    """Return the sum of squares of the ``k`` smallest singular values, in float32.

    Args:
        features: ``(B, D)``.
        k: How many; all ``min(B, D)`` of them if it is more.

    >>> round(spectral_tail(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).item(), 4)
    5.0
    """
    values: Tensor = torch.linalg.svdvals(features.float())  # from the largest to the smallest
    return values[-k:].square().sum()


class BSS(Regularizer):
    """``eta * sum of sigma_i^2`` over the ``k`` smallest singular values of a batch's features.

    The features are those that the classifier sees. Of several domains each has a matrix of its
    own, and the term is their mean; features that do not learn add nothing.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As there.
        eta: At least 0.
        k: Number of singular values, at least 1.

    Raises:
        ConfigError: If a knob is out of its range.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, eta: float, k: int) -> None:
        super().__init__(backbone=backbone, task=task, eta=eta, k=k)
        self.eta = eta
        self.k = k

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the knobs, a sentence each."""
        found = super().faults(where, knobs)
        if knobs["k"] == 0:
            found.append(
                f"{where}.k=0 singular values are none; type {where}.k=1, or {where}.eta=0 to "
                "leave the method out"
            )
        return found

    def forward(self, views: Views) -> Terms:
        """Return ``{"bss": term}`` for views with features ``(B, D)``."""
        found = [
            spectral_tail(view.features, self.k)
            for view in views.values()
            if self.eta and view.features.requires_grad
        ]
        return {"bss": self.eta * torch.stack(found).mean()} if found else {}
