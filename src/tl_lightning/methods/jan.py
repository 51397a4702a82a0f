"""JAN: joint maximum mean discrepancy of features and predictions.

Long, Zhu, Wang, Jordan (2017): Deep Transfer Learning with Joint Adaptation Networks. ICML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kernels import gaussian_kernel, mmd
from tl_lightning.types import Context, Views

__all__ = ["JAN"]


class JAN(Penalty):
    """MMD with the product of a kernel on the features and a kernel on the class probabilities.

    Args:
        multipliers: Widths of the feature kernel as multiples of the mean squared distance.
        bandwidth: Width of the kernel on the probabilities.
        unbiased: Whether to exclude pairs of a sample with itself.
        kwargs: As in :class:`Penalty`.
    """

    smallest_batch = 2

    def __init__(
        self, *, multipliers: Sequence[float], bandwidth: float, unbiased: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.multipliers = tuple(multipliers)
        self.bandwidth = bandwidth
        self.unbiased = unbiased

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the joint discrepancy of features ``(B, D)`` and logits ``(B, K)``."""
        both = [views["source"], views["target"]]
        features = torch.cat([view.features for view in both])
        probs = torch.cat([view.logits for view in both]).softmax(1)
        kernel = gaussian_kernel(features, self.multipliers)
        kernel = kernel * gaussian_kernel(probs, (1.0,), self.bandwidth)
        return mmd(kernel, len(both[0].features), self.unbiased)
