"""CDAN and CDAN+E: a discriminator conditioned on features and predictions.

Long, Cao, Wang, Jordan (2018): Conditional Adversarial Domain Adaptation. NeurIPS.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_lightning.distributed.ranks import rank_mean
from tl_lightning.methods.components.adversary import Adversary
from tl_lightning.types import View

__all__ = ["CDAN", "certainty"]


def certainty(logits: Tensor, across_ranks: bool = False) -> Tensor:
    """Return the weights ``1 + exp(-H)`` ``(B,)`` of the predictions, scaled to a mean of 1.

    Args:
        logits: ``(B, K)``.
        across_ranks: Whether to take the mean over the batches of all ranks.
    """
    probs = logits.float().softmax(1)
    weight = 1 + torch.exp(-torch.special.entr(probs).sum(1))
    mean = weight.mean()
    return weight / (rank_mean(mean) if across_ranks else mean)


class CDAN(Adversary):
    """A discriminator on the outer product of features and class probabilities.

    No gradient flows through the probabilities. If ``D K`` exceeds ``largest``, the outer product
    is replaced by the paper's random multilinear map ``(R_f f) * (R_g g) / sqrt(largest)``, with
    fixed Gaussian matrices that are saved with the model.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: ``K``.
        entropy: Whether to use CDAN+E: samples are weighted by the certainty of their prediction,
            without gradient (the authors' code lets a reversed gradient through the weights).
        largest: Maximum width of the outer product, and the width of the random map.
        kwargs: As in :class:`Adversary`.
    """

    of_features: Tensor
    of_shares: Tensor

    def __init__(
        self, *, in_features: int, num_classes: int, entropy: bool, largest: int, **kwargs: Any
    ) -> None:
        full = in_features * num_classes
        super().__init__(
            in_features=in_features, num_classes=num_classes, inputs=min(full, largest), **kwargs
        )
        self.entropy = entropy
        self.largest = largest
        self.random = full > largest
        if self.random:
            self.register_buffer("of_features", torch.randn(in_features, largest))
            self.register_buffer("of_shares", torch.randn(num_classes, largest))

    def seen(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the multilinear map of features ``(B, D)`` and probabilities ``(B, K)``."""
        probs = logits.detach().float().softmax(1).to(features.dtype)
        if self.random:
            mapped: Tensor = (features @ self.of_features) * (probs @ self.of_shares)
            return mapped.div(self.largest**0.5)
        return (probs[:, :, None] * features[:, None, :]).flatten(1)

    def weights(self, view: View) -> Tensor | None:
        """Return the certainty weight of each prediction for CDAN+E, otherwise None."""
        return certainty(view.logits.detach(), across_ranks=True) if self.entropy else None
