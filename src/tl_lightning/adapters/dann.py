"""DANN: domain-adversarial training by gradient reversal.

Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand, Lempitsky (2016):
Domain-Adversarial Training of Neural Networks. JMLR 17(59).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.activations import Activation, activation
from tl_lightning.adapters.base import Adapter
from tl_lightning.schedules import sigmoid_ramp
from tl_lightning.types import Context, Terms, Views

__all__ = ["DANN", "dann_loss", "reverse_gradient"]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return -ctx.scale * grads[0], None


def reverse_gradient(x: Tensor, scale: float) -> Tensor:
    """Return ``x`` itself; its gradient is multiplied by ``-scale`` on the way back.

    >>> x = torch.ones(2, requires_grad=True)
    >>> reverse_gradient(x, 0.5).sum().backward()
    >>> x.grad.tolist()
    [-0.5, -0.5]
    """
    out: Tensor = _Reverse.apply(x, scale)
    return out


def dann_loss(source: Tensor, target: Tensor) -> Tensor:
    """Return the domain loss: mean binary cross-entropy of logits, source 1 and target 0.

    Both domains weigh the same, however many samples each brings.

    Args:
        source: ``(B_s,)`` logits of source samples.
        target: ``(B_t,)`` logits of target samples.

    >>> round(dann_loss(torch.zeros(3), torch.zeros(5)).item(), 4)  # chance: log 2
    0.6931
    """
    ones, zeros = torch.ones_like(source.float()), torch.zeros_like(target.float())
    return 0.5 * (
        functional.binary_cross_entropy_with_logits(source.float(), ones)
        + functional.binary_cross_entropy_with_logits(target.float(), zeros)
    )


class DANN(Adapter):
    """A domain discriminator whose gradient reaches the features reversed.

    ``lambda = max_lambda (2 / (1 + exp(-gain p)) - 1)`` scales only the gradient into the
    features; the discriminator itself always learns at full strength.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: Not used by this method.
        max_lambda: Largest weight of the reversed gradient; 0 leaves joint batches without a pull.
        gain: Steepness of the ramp.
        width: Hidden width of the discriminator.
        depth: Number of its hidden layers.
        dropout: After each hidden layer.
        activation: After each hidden layer.
    """

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        max_lambda: float,
        gain: float,
        width: int,
        depth: int,
        dropout: float,
        activation: Activation,
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.max_lambda = max_lambda
        self.gain = gain
        self.discriminator = _mlp(in_features, width, depth, dropout, activation)

    def strength(self, progress: float) -> float:
        """Return lambda at ``progress``."""
        return self.max_lambda * sigmoid_ramp(progress, self.gain)

    def domain_logits(self, features: Tensor) -> Tensor:
        """Return the discriminator's logits ``(B,)``; above 0 means source."""
        logits: Tensor = self.discriminator(features)
        return logits.squeeze(1)

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return ``{"dann": loss}`` for views with features ``(B_s, D)`` and ``(B_t, D)``."""
        source, target = views["source"].features, views["target"].features
        scale = self.strength(ctx.progress)
        joined = torch.cat([source, target])
        logits = self.domain_logits(reverse_gradient(joined, scale))
        of_source, of_target = logits[: len(source)], logits[len(source) :]
        with torch.no_grad():
            accuracy = 0.5 * ((of_source > 0).float().mean() + (of_target <= 0).float().mean())
        ctx.log("lambda", scale)
        ctx.log("domain_acc", accuracy)
        return {"dann": dann_loss(of_source, of_target)}


def _mlp(d: int, width: int, depth: int, dropout: float, act: Activation) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(d, width), activation(act), nn.Dropout(dropout)]
        d = width
    return nn.Sequential(*layers, nn.Linear(d, 1))
