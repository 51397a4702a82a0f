"""MDD: margin disparity discrepancy.

Zhang, Liu, Long, Jordan (2019): Bridging Theory and Algorithm for Domain Adaptation. ICML.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.config.hints import at_least
from tl_lightning.layers import Activation, perceptron
from tl_lightning.methods.base import Method
from tl_lightning.methods.components.gradient_reversal import reverse_gradient
from tl_lightning.schedules import ramp_progress, sigmoid_ramp
from tl_lightning.types import Context, Terms, Views

__all__ = ["MDD", "disparity"]


def disparity(
    source: Tensor, target: Tensor, source_classes: Tensor, target_classes: Tensor, margin: float
) -> Tensor:
    """Return the loss of the second classifier: ``margin CE_s - log(1 - p_t)``.

    Minimising it makes the second classifier agree with the first on the source and disagree on
    the target; the features, behind a gradient reversal, are trained to do the opposite.

    Args:
        source: ``(B_s, K)`` logits of the second classifier.
        target: ``(B_t, K)``, likewise.
        source_classes: ``(B_s,)`` classes predicted by the first classifier.
        target_classes: ``(B_t,)``, likewise.
        margin: ``gamma`` of the paper.
    """
    agreement = functional.cross_entropy(source.float(), source_classes)
    # log(1 - p) from logits: logsumexp of the other classes minus logsumexp of all.
    logits = target.float()
    mask = functional.one_hot(target_classes, logits.shape[1]).bool()
    others = logits.masked_fill(mask, -torch.inf)
    disagreement = (logits.logsumexp(1) - others.logsumexp(1)).mean()
    return margin * agreement + disagreement


class MDD(Method):
    """A second classifier behind a gradient reversal, trained to disagree with the first.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: ``K``.
        max_lambda: Maximum weight of the reversed gradient; 0 turns the adaptation off.
        gain: Steepness of the ramp.
        ramp_steps: Number of batches that the ramp takes, see :func:`.ramp_progress`; None for a
            ramp over the run.
        margin: ``gamma`` of the paper; the margin is ``log gamma``.
        width: Hidden width of the second classifier.
        depth: Number of its hidden layers.
        dropout: Dropout probability after each hidden layer.
        activation: Activation after each hidden layer.
    """

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        max_lambda: float,
        gain: float,
        ramp_steps: Annotated[int, at_least(1)] | None,
        margin: float,
        width: int,
        depth: int,
        dropout: float,
        activation: Activation,
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.max_lambda = max_lambda
        self.gain = gain
        self.ramp_steps = ramp_steps
        self.margin = margin
        self.second = perceptron(in_features, width, depth, dropout, activation, num_classes)

    def strength(self, ctx: Context) -> float:
        """Return the weight of the reversed gradient in this step."""
        p = ramp_progress(ctx.progress, ctx.step, self.ramp_steps)
        return self.max_lambda * sigmoid_ramp(p, self.gain) * ctx.recovery

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return ``{"mdd": loss}`` for views with features ``(B, D)`` and logits ``(B, K)``."""
        source, target = views["source"], views["target"]
        scale = self.strength(ctx)
        features = reverse_gradient(torch.cat([source.features, target.features]), scale)
        out = self.second(features)
        logits = out[: len(source.features)], out[len(source.features) :]
        predicted = [view.logits.detach().argmax(1) for view in (source, target)]
        ctx.log("lambda", scale)
        return {"mdd": disparity(*logits, predicted[0], predicted[1], self.margin)}
