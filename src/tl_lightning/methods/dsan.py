"""DSAN: local (per-class) maximum mean discrepancy.

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


def class_weights(probs: Tensor) -> Tensor:
    """Return the class probabilities ``(B, K)``, normalised to sum 1 over the batch for each class.

    >>> class_weights(torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.5, 0.0]])).tolist()
    [[0.5, 0.0], [0.25, 0.0], [0.25, 0.0]]
    """
    total = probs.sum(0, keepdim=True)
    return torch.where(total > 0, probs / total.clamp_min(1e-12), 0.0)


class DSAN(Penalty):
    """Mean over classes of the MMD between source and target samples weighted by that class.

    Source samples are weighted by their labels, target samples by their predicted probabilities
    (without gradient). As in the authors' code, classes without a source label or a target
    prediction in the batch are skipped.

    Args:
        multipliers: Kernel widths as multiples of the features' mean squared distance.
        kwargs: As in :class:`Penalty`.
    """

    def __init__(self, *, multipliers: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multipliers = tuple(multipliers)

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the discrepancy; 0 if the domains have no class in common."""
        source, target = views["source"], views["target"]
        k = self.num_classes
        truth = functional.one_hot(source.require("labels"), k).float()
        probs = target.logits.detach().softmax(1)
        predicted = functional.one_hot(probs.argmax(1), k).sum(0) > 0
        shared = (truth.sum(0) > 0) & predicted
        # With signed weights per sample and class, the MMD is a quadratic form of the kernel.
        signed = torch.cat([class_weights(truth), -class_weights(probs)]) * shared
        kernel = gaussian_kernel(torch.cat([source.features, target.features]), self.multipliers)
        terms = ((kernel @ signed) * signed).sum(0)
        return terms.sum() / shared.sum().clamp_min(1)
