"""ADDA: adversarial discriminative domain adaptation.

Tzeng, Hoffman, Saenko, Darrell (2017): Adversarial Discriminative Domain Adaptation. CVPR.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from tl_lightning.layers import Activation, perceptron
from tl_lightning.methods.base import Adapter
from tl_lightning.methods.components.adversary import domain_loss
from tl_lightning.types import Context, Terms, Views

__all__ = ["ADDA"]


class ADDA(Adapter):
    """First the source alone, then the target's features are made to look like the source's.

    After ``pretrain`` of the run a copy of the model is frozen: it encodes the source from then on,
    while the model itself, which no longer sees a label, encodes the target. Discriminator and
    encoder learn in the same step, each at full strength: the encoder by the inverted-label loss
    ``-log D(f_t)``, not by a reversal. The model that is tested is the target's.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: Not used by this method.
        weight: Of the encoder's term; 0 leaves the whole run to the source.
        pretrain: Share of the run before the copy is taken.
        width: Hidden width of the discriminator.
        depth: Number of its hidden layers.
        activation: After each hidden layer.
    """

    twin = "frozen"
    twin_views = ("source",)
    may_rest = True

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        weight: float,
        pretrain: float,
        width: int,
        depth: int,
        activation: Activation,
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.weight = weight
        self.twin_begins = pretrain
        self.discriminator = perceptron(in_features, width, depth, 0.0, activation)

    def strength(self, progress: float) -> float:
        """Return the weight once the source has been learnt."""
        return self.weight if progress >= self.twin_begins else 0.0

    def task_weight(self, progress: float) -> float:
        """Return 0 once the source has been learnt."""
        return 0.0 if self.strength(progress) > 0 else 1.0

    def domain_logits(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the discriminator's logits ``(B,)``; above 0 means source."""
        out: Tensor = self.discriminator(features)
        return out.squeeze(1)

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the discriminator's and the encoder's term; 0 before the copy is taken."""
        target, source = views["target"].features, views["source"].twin_features
        weight = self.strength(ctx.progress)
        if source is None or weight == 0:
            nothing = target.sum() * 0.0
            return {"adda": nothing, "adda_discriminator": nothing.detach()}
        of_source, of_target = (self.domain_logits(f.detach(), f) for f in (source, target))
        # The encoder is judged by the discriminator as it stands, which learns nothing from it.
        fixed: Any = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        judged = functional_call(self.discriminator, fixed, (target,)).squeeze(1).float()
        fooled = functional.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        with torch.no_grad():
            accuracy = 0.5 * ((of_source > 0).float().mean() + (of_target <= 0).float().mean())
        ctx.log("domain_acc", accuracy)
        return {"adda": weight * fooled, "adda_discriminator": domain_loss(of_source, of_target)}
