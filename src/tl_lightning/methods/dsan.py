"""DSAN: local maximum mean discrepancy, class by class.

Zhu, Zhuang, Wang, Ke, Chen, Bian, Xiong, He (2020): Deep Subdomain Adaptation Network for Image
Classification. IEEE TNNLS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kernels import gaussian_kernel
from tl_lightning.types import Context, Views

__all__ = ["DSAN", "class_weights"]


def class_weights(shares: Tensor) -> Tensor:
    """Return each sample's weight in each class: its share of that class's total, ``(B, K)``.

    >>> class_weights(torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.5, 0.0]])).tolist()
    [[0.5, 0.0], [0.25, 0.0], [0.25, 0.0]]
    """
    total = shares.sum(0, keepdim=True)
    return torch.where(total > 0, shares / total.clamp_min(1e-12), 0.0)


class DSAN(Penalty):
    """The mean over classes of the MMD between source and target samples weighed by that class.

    The source weighs by its labels, the target by its predicted probabilities (without gradient).
    Classes that the batch's source does not hold, or that the target is nowhere thought to be, are
    left out, as in the authors' code.

    Args:
        multipliers: Widths of the kernel, times the features' mean squared distance.
        kwargs: As in :class:`Penalty`.
    """

    def __init__(self, *, multipliers: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multipliers = tuple(multipliers)

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the discrepancy; 0 where no class is in both."""
        source, target = views["source"], views["target"]
        assert source.labels is not None
        k, n = self.num_classes, len(source.features)
        truth = functional.one_hot(source.labels, k).float()
        guess = target.logits.detach().softmax(1)
        thought = functional.one_hot(guess.argmax(1), k).sum(0) > 0
        shared = (truth.sum(0) > 0) & thought
        # One signed weight a sample and class: the discrepancy is a quadratic form of the kernel.
        signed = torch.cat([class_weights(truth), -class_weights(guess)]) * shared
        kernel = gaussian_kernel(torch.cat([source.features, target.features]), self.multipliers)
        assert len(kernel) - n == len(target.features)
        terms = ((kernel @ signed) * signed).sum(0)
        return terms.sum() / shared.sum().clamp_min(1)
