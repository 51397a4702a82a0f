"""CDAN and CDAN+E: a discriminator that sees features and predictions together.

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


def certainty(logits: Tensor, of_ranks: bool = False) -> Tensor:
    """Return ``1 + exp(-H)`` of every prediction ``(B, K)``, scaled to a mean of 1: ``(B,)``.

    Args:
        logits: ``(B, K)``.
        of_ranks: Whether the mean is that of the batches of all ranks.
    """
    shares = logits.float().softmax(1)
    weight = 1 + torch.exp(-torch.special.entr(shares).sum(1))
    mean = weight.mean()
    return weight / (rank_mean(mean) if of_ranks else mean)


class CDAN(Adversary):
    """The discriminator sees the outer product of features and class probabilities.

    Probabilities are constants here: no gradient flows through them. Where ``D K`` exceeds
    ``largest``, the product is replaced by the paper's random map
    ``(R_f f) * (R_g g) / sqrt(largest)``, with fixed normal matrices that are saved with the model.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: ``K``.
        entropy: CDAN+E: samples weigh by the certainty of their prediction, a constant too (the
            authors' code lets a reversed gradient through it).
        largest: Width above which the random map is used, and its own width.
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
        """Return the map of features ``(B, D)`` and probabilities ``(B, K)``."""
        shares = logits.detach().float().softmax(1).to(features.dtype)
        if self.random:
            mapped: Tensor = (features @ self.of_features) * (shares @ self.of_shares)
            return mapped.div(self.largest**0.5)
        return (shares[:, :, None] * features[:, None, :]).flatten(1)

    def weights(self, view: View) -> Tensor | None:
        """Return the certainty of each prediction for CDAN+E."""
        return certainty(view.logits.detach(), of_ranks=True) if self.entropy else None
