"""Complement entropy: wrong classes of source samples are equally probable.

Liang, Wang, Hu, He, Feng (2020): A Balanced and Uncertainty-aware Approach for Partial Domain
Adaptation. ECCV.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tl_lightning.distributed.ranks import with_mean_one
from tl_lightning.methods.base import Penalty
from tl_lightning.methods.entropy import entropies
from tl_lightning.types import Context, Views

__all__ = ["ComplementEntropy", "complement_entropy"]


def complement_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the entropy ``(B,)`` of the predictions among the classes that are wrong.

    It is divided by its maximum, ``log(K - 1)``; 0 for two classes, of which one is wrong.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)``.

    >>> complement_entropy(torch.tensor([[5.0, 1.0, 1.0]]), torch.tensor([0])).item()
    1.0
    """
    # By indices, as a mask would wait for the device: all classes but that of the label.
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = others + (others >= labels[:, None]).long()
    return entropies(logits.gather(1, others)) / max(math.log(others.shape[1]), 1e-12)


class ComplementEntropy(Penalty):
    """Minus the entropy of the predictions among the wrong classes of source samples.

    Without it, a network that was trained on the source takes target samples for the class that is
    most similar to the right one, which may be one that the target lacks. Samples are weighted by
    the probability of the wrong classes, and by the weights of ``class_weights``.
    """

    required_domains = frozenset({"source"})
    uses_weights = True

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the loss for the source's logits ``(B, K)``, in [-1, 0]."""
        source = views["source"]
        labels = source.require("labels")
        weights = 1 - source.logits.detach().softmax(1).gather(1, labels[:, None]).squeeze(1)
        if source.weights is not None:
            weights = weights * source.weights
        return -(with_mean_one(weights) * complement_entropy(source.logits, labels)).mean()
