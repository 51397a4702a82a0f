"""WDGRL: Wasserstein distance guided representation learning.

Shen, Qu, Zhang, Yu (2018): Wasserstein Distance Guided Representation Learning for Domain
Adaptation. AAAI. The penalty is that of Gulrajani et al. (2017), NeurIPS.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tl_lightning.data.transforms.uniforms import uniforms
from tl_lightning.layers import Activation, perceptron
from tl_lightning.methods.base import Method, Stage
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Terms, View, Views
from tl_lightning.utils.seeding import mix

__all__ = ["WDGRL", "gradient_penalty"]


def gradient_penalty(critic: nn.Module, source: Tensor, target: Tensor, alphas: Tensor) -> Tensor:
    """Return the mean of ``(|grad critic| - 1)^2`` at the features and at interpolated points.

    Args:
        critic: Maps ``(B, D)`` to ``(B, 1)``.
        source: ``(B, D)``.
        target: ``(B', D)``.
        alphas: ``(min(B, B'), 1)`` in [0, 1], weights of the source in the interpolated points.
    """
    n = min(len(source), len(target))
    interpolated = alphas * source[:n] + (1 - alphas) * target[:n]
    points = torch.cat([source, target, interpolated]).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    # The small constant avoids the undefined gradient of the norm at 0.
    return ((slopes.square().sum(1) + 1e-12).sqrt() - 1).square().mean()


class WDGRL(Method):
    """A critic estimates the Wasserstein distance between the domains; the features minimise it.

    For every batch, the critic takes ``repeats`` steps with fixed features; then the task and the
    features take one step with a fixed critic.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: Not used by this method.
        weight: Weight of the distance in the feature step.
        repeats: Critic steps per batch (the paper's ``n``).
        penalty: Weight of the gradient penalty.
        width: Hidden width of the critic.
        depth: Number of its hidden layers.
        activation: Activation after each hidden layer.
    """

    tasks = TASKS
    alternating = True
    find_unused_parameters = True

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
        #: Seed of the interpolated points, and the batch and its step that they were drawn for.
        self.seed = torch.initial_seed()
        self.place = (-1, 0)
        self.critic = perceptron(in_features, width, depth, 0.0, activation)

    def plan(self) -> tuple[Stage, ...]:
        """Return the critic stage and the feature stage."""
        return (
            Stage("critic", repeats=self.repeats, forward=False),
            Stage("features", forward=False, whole=True),
        )

    def strength(self, ctx: Context) -> float:
        """Return the weight."""
        return self.weight * ctx.recovery

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the terms of the current stage."""
        source, target = views["source"].features, views["target"].features
        with torch.autocast(source.device.type, enabled=False):  # for second derivatives
            source, target = source.float(), target.float()
            if self.stage(ctx) == "critic":
                source, target = source.detach(), target.detach()
                distance = self.critic(source).mean() - self.critic(target).mean()
                alphas = self.alphas(views["source"], min(len(source), len(target)), ctx.step)
                lipschitz = gradient_penalty(self.critic, source, target, alphas)
                ctx.log("distance", distance.detach())
                return {"wdgrl_critic": self.penalty * lipschitz - distance}
            fixed: Any = {name: p.detach() for name, p in self.critic.named_parameters()}
            means = [functional_call(self.critic, fixed, (f,)).mean() for f in (source, target)]
            return {"wdgrl": self.strength(ctx) * (means[0] - means[1])}

    def alphas(self, source: View, count: int, step: int) -> Tensor:
        """Return the weights ``(count, 1)`` of the source in the interpolated points.

        They depend on the samples rather than on their places in the batch, so that they are the
        same on one rank and on several; without the samples' positions in the data they are random.
        """
        device = source.features.device
        if source.index is None:
            return torch.rand(count, 1, device=device)
        repeat = self.place[1] + 1 if self.place[0] == step else 0
        self.place = (step, repeat)
        draws = uniforms(source.index[:count].tolist(), 1, mix(self.seed, step, repeat))
        return torch.from_numpy(draws).float().to(device)
