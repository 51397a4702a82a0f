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
from tl_lightning.methods.base import Method
from tl_lightning.methods.components.adversary import domain_loss
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Terms, Views

__all__ = ["ADDA"]


class ADDA(Method):
    """Pretrains on the source, then adapts a target encoder to match the source features.

    After the fraction ``pretrain`` of the run the model is copied and frozen. The copy then encodes
    the source, while the model itself, no longer trained on labels, encodes the target.
    Discriminator and encoder are updated in the same step; the encoder uses the inverted-label loss
    ``-log D(f_t)`` instead of a gradient reversal. The target encoder is the model that is tested.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: Not used by this method.
        weight: Weight of the encoder's term; 0 trains on the source for the whole run.
        pretrain: Fraction of the run before the model is copied.
        width: Hidden width of the discriminator.
        depth: Number of its hidden layers.
        activation: Activation after each hidden layer.
    """

    tasks = TASKS
    teacher = "frozen"
    teacher_views = ("source",)
    find_unused_parameters = True

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
        self.teacher_start = pretrain
        self.discriminator = perceptron(in_features, width, depth, 0.0, activation)

    def strength(self, ctx: Context) -> float:
        """Return the weight after pretraining, 0 before."""
        return ctx.recovery * (self.weight if ctx.progress >= self.teacher_start else 0.0)

    def task_weight(self, progress: float) -> float:
        """Return 1 during pretraining, 0 afterwards."""
        return 0.0 if self.strength(Context(progress)) > 0 else 1.0

    def domain_logits(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the discriminator's logits ``(B,)``; positive means source."""
        out: Tensor = self.discriminator(features)
        return out.squeeze(1)

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the encoder's and the discriminator's term, both 0 before the model is copied."""
        target, source = views["target"].features, views["source"].teacher_features
        weight = self.strength(ctx)
        if source is None or weight == 0:
            zero = target.sum() * 0.0
            return {"adda": zero, "adda_discriminator": zero.detach()}
        source_out, target_out = (self.domain_logits(f.detach(), f) for f in (source, target))
        # The encoder's term must not train the discriminator, so its parameters are detached.
        fixed: Any = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, fixed, (target,)).squeeze(1).float()
        loss = functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        with torch.no_grad():
            accuracy = 0.5 * ((source_out > 0).float().mean() + (target_out <= 0).float().mean())
        ctx.log("domain_acc", accuracy)
        return {"adda": weight * loss, "adda_discriminator": domain_loss(source_out, target_out)}
