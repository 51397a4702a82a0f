"""WDGRL: representations guided by the Wasserstein distance.

Shen, Qu, Zhang, Yu (2018): Wasserstein Distance Guided Representation Learning for Domain
Adaptation. AAAI. The penalty is that of Gulrajani et al. (2017), NeurIPS.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tl_lightning.layers import Activation, perceptron
from tl_lightning.methods.base import Adapter, Stage
from tl_lightning.types import Context, Terms, Views

__all__ = ["WDGRL", "gradient_penalty"]


def gradient_penalty(critic: nn.Module, source: Tensor, target: Tensor, shares: Tensor) -> Tensor:
    """Return the mean of ``(|grad critic| - 1)^2`` at the domains' features and between them.

    Args:
        critic: From ``(B, D)`` to ``(B, 1)``.
        source: ``(B, D)``.
        target: ``(B', D)``; the points between pair the first samples of each.
        shares: ``(min(B, B'), 1)`` in [0, 1]: where between.
    """
    n = min(len(source), len(target))
    between = shares * source[:n] + (1 - shares) * target[:n]
    points = torch.cat([source, target, between]).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    # Kept from 0, where a norm has no gradient.
    return ((slopes.square().sum(1) + 1e-12).sqrt() - 1).square().mean()


class WDGRL(Adapter):
    """A critic of slope 1 measures the distance of the domains; the features make it small.

    Every batch: ``repeats`` steps of the critic alone on features that stand still, then one of the
    task and the features against the critic, which stands still.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: Not used by this method.
        weight: Of the distance in the features' step.
        repeats: Steps of the critic a batch (the paper's ``n``).
        penalty: Weight of the gradient penalty.
        width: Hidden width of the critic.
        depth: Number of its hidden layers.
        activation: After each hidden layer.
    """

    alternates = True
    may_rest = True

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        weight: float,
        repeats: int,
        penalty: float,
        width: int,
        depth: int,
        activation: Activation,
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.weight = weight
        self.repeats = repeats
        self.penalty = penalty
        self.critic = perceptron(in_features, width, depth, 0.0, activation)

    def plan(self) -> tuple[Stage, ...]:
        """Return the critic's steps and the features'."""
        return (
            Stage("critic", repeats=self.repeats, forward=False),
            Stage("features", forward=False, whole=True),
        )

    def strength(self, progress: float) -> float:
        """Return the weight."""
        return self.weight

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the terms of the stage that is due."""
        source, target = views["source"].features, views["target"].features
        with torch.autocast(source.device.type, enabled=False):  # second derivatives
            source, target = source.float(), target.float()
            if ctx.stage == "critic":
                source, target = source.detach(), target.detach()
                distance = self.critic(source).mean() - self.critic(target).mean()
                shares = torch.rand(min(len(source), len(target)), 1, device=source.device)
                slopes = gradient_penalty(self.critic, source, target, shares)
                ctx.log("distance", distance.detach())
                return {"wdgrl_critic": self.penalty * slopes - distance}
            fixed: Any = {name: p.detach() for name, p in self.critic.named_parameters()}
            means = [functional_call(self.critic, fixed, (f,)).mean() for f in (source, target)]
            return {"wdgrl": self.weight * (means[0] - means[1])}
