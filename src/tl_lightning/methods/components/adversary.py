"""Base class of adversarial methods with a domain discriminator and gradient reversal."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.config.hints import at_least
from tl_lightning.layers import Activation, perceptron
from tl_lightning.methods.base import Method
from tl_lightning.methods.components.gradient_reversal import reverse_gradient
from tl_lightning.schedules import ramp_progress, sigmoid_ramp
from tl_lightning.types import Context, Terms, View, Views

__all__ = ["Adversary", "Weights", "domain_loss"]


#: Weights of the samples of source and target, each None for 1.
Weights = tuple[Tensor | None, Tensor | None]


def domain_loss(source: Tensor, target: Tensor, weights: Weights = (None, None)) -> Tensor:
    """Return the domain loss: binary cross-entropy of the logits with source as 1 and target as 0.

    Both domains have the same total weight, regardless of their number of samples.

    Args:
        source: ``(B_s,)`` logits of source samples.
        target: ``(B_t,)`` logits of target samples.
        weights: Sample weights ``(B_s,)`` and ``(B_t,)``, each None for 1.

    >>> round(domain_loss(torch.zeros(3), torch.zeros(5)).item(), 4)  # chance level: log 2
    0.6931
    """
    ones, zeros = torch.ones_like(source.float()), torch.zeros_like(target.float())
    return 0.5 * (
        functional.binary_cross_entropy_with_logits(source.float(), ones, weights[0])
        + functional.binary_cross_entropy_with_logits(target.float(), zeros, weights[1])
    )


class Adversary(Method):
    """A domain discriminator trained through a gradient reversal layer.

    ``lambda = max_lambda (2 / (1 + exp(-gain p)) - 1)`` scales only the gradient with respect to
    the features; the discriminator itself is always trained with the full gradient.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: ``K``.
        inputs: Width of the discriminator's input.
        max_lambda: Maximum weight of the reversed gradient; 0 turns the adaptation off.
        gain: Steepness of the ramp.
        ramp_steps: Number of batches that the ramp takes, see :func:`.ramp_progress`; None for a
            ramp over the run.
        width: Hidden width of the discriminator.
        depth: Number of its hidden layers.
        dropout: Dropout probability after each hidden layer.
        norm: Normalisation of each hidden layer, before its activation: none, or batch norm over
            the samples of both domains.
        activation: Activation after each hidden layer.
    """

    uses_weights = True

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        inputs: int,
        max_lambda: float,
        gain: float,
        ramp_steps: Annotated[int, at_least(1)] | None,
        width: int,
        depth: int,
        dropout: float,
        norm: Literal["none", "batch"],
        activation: Activation,
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.max_lambda = max_lambda
        self.gain = gain
        self.ramp_steps = ramp_steps
        self.discriminator = perceptron(inputs, width, depth, dropout, activation, norm=norm)

    def strength(self, ctx: Context) -> float:
        """Return lambda in this step."""
        p = ramp_progress(ctx.progress, ctx.step, self.ramp_steps)
        return self.max_lambda * sigmoid_ramp(p, self.gain) * ctx.recovery

    @abstractmethod
    def seen(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the discriminator's input for features ``(B, D)`` and logits ``(B, K)``."""

    def weights(self, view: View) -> Tensor | None:
        """Return sample weights ``(B,)`` for one domain, or None for 1."""
        return None

    def compared(self, source: Tensor, target: Tensor, weights: Weights, ctx: Context) -> Tensor:
        """Return the loss of the discriminator.

        Args:
            source: ``(B_s,)`` logits of source samples.
            target: ``(B_t,)`` logits of target samples.
            weights: Those of :meth:`weights`, times the source's.
            ctx: The step.
        """
        return domain_loss(source, target, weights)

    def domain_logits(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the discriminator's logits ``(B,)``; positive means source."""
        out: Tensor = self.discriminator(self.seen(features, logits))
        return out.squeeze(1)

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the domain loss for views with features ``(B_s, D)`` and ``(B_t, D)``."""
        source, target = views["source"], views["target"]
        scale = self.strength(ctx)
        inputs = self.seen(
            torch.cat([source.features, target.features]), torch.cat([source.logits, target.logits])
        )
        out = self.discriminator(reverse_gradient(inputs, scale)).squeeze(1)
        source_out, target_out = out[: len(source.features)], out[len(source.features) :]
        with torch.no_grad():
            accuracy = 0.5 * ((source_out > 0).float().mean() + (target_out <= 0).float().mean())
        ctx.log("lambda", scale)
        ctx.log("domain_acc", accuracy)
        weights = _product(self.weights(source), source.weights), self.weights(target)
        return {self.name: self.compared(source_out, target_out, weights, ctx)}


def _product(own: Tensor | None, given: Tensor | None) -> Tensor | None:
    """Return the product of two weights ``(B,)``, each None for 1."""
    return own if given is None else given if own is None else own * given
