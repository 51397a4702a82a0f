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
    """MMD under the product of a kernel of the features and one of the class probabilities.

    Args:
        multipliers: Widths of the features' kernel, times their mean squared distance.
        bandwidth: Width of the probabilities' kernel.
        unbiased: Whether pairs of a sample with itself are left out.
        kwargs: As in :class:`Penalty`.
    """

    def __init__(
        self, *, multipliers: Sequence[float], bandwidth: float, unbiased: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.multipliers = tuple(multipliers)
        self.bandwidth = bandwidth
        self.unbiased = unbiased

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the joint discrepancy of ``(B_s, D)``, ``(B_s, K)`` and the target's."""
        both = [views["source"], views["target"]]
        features = torch.cat([view.features for view in both])
        shares = torch.cat([view.logits for view in both]).softmax(1)
        kernel = gaussian_kernel(features, self.multipliers)
        kernel = kernel * gaussian_kernel(shares, (1.0,), self.bandwidth)
        return mmd(kernel, len(both[0].features), self.unbiased)
