"""MDD: margin disparity discrepancy.

Zhang, Liu, Long, Jordan (2019): Bridging Theory and Algorithm for Domain Adaptation. ICML.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.layers import Activation, perceptron
from tl_lightning.methods.base import Adapter
from tl_lightning.methods.components.gradient_reversal import reverse_gradient
from tl_lightning.schedules import sigmoid_ramp
from tl_lightning.types import Context, Terms, Views

__all__ = ["MDD", "disparity"]


def disparity(
    source: Tensor, target: Tensor, of_source: Tensor, of_target: Tensor, margin: float
) -> Tensor:
    """Return what the second classifier minimises: ``margin CE_s - log(1 - p_t)``.

    It agrees with the first classifier on the source and disagrees on the target; the features,
    behind a reversal, do the opposite.

    Args:
        source: ``(B_s, K)`` logits of the second classifier.
        target: ``(B_t, K)``, likewise.
        of_source: ``(B_s,)`` classes that the first one predicts.
        of_target: ``(B_t,)``, likewise.
        margin: ``gamma`` of the paper.
    """
    agrees = functional.cross_entropy(source.float(), of_source)
    # log(1 - p) from logits: the log of the others' sum, less that of all.
    logits = target.float()
    others = logits.masked_fill(functional.one_hot(of_target, logits.shape[1]).bool(), -torch.inf)
    differs = (logits.logsumexp(1) - others.logsumexp(1)).mean()
    return margin * agrees + differs


class MDD(Adapter):
    """A second classifier behind a gradient reversal, as far from the first as it can be.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: ``K``.
        max_lambda: Largest weight of the reversed gradient; 0 leaves joint batches without a pull.
        gain: Steepness of its ramp.
        margin: ``gamma``: ``log gamma`` is the margin.
        width: Hidden width of the second classifier.
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
        margin: float,
        width: int,
        depth: int,
        dropout: float,
        activation: Activation,
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.max_lambda = max_lambda
        self.gain = gain
        self.margin = margin
        self.second = perceptron(in_features, width, depth, dropout, activation, num_classes)

    def strength(self, progress: float) -> float:
        """Return the weight of the reversed gradient at ``progress``."""
        return self.max_lambda * sigmoid_ramp(progress, self.gain)

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return ``{"mdd": loss}`` for views with features ``(B, D)`` and logits ``(B, K)``."""
        source, target = views["source"], views["target"]
        scale = self.strength(ctx.progress)
        seen = reverse_gradient(torch.cat([source.features, target.features]), scale)
        out = self.second(seen)
        parts = out[: len(source.features)], out[len(source.features) :]
        predicted = [view.logits.detach().argmax(1) for view in (source, target)]
        ctx.log("lambda", scale)
        return {"mdd": disparity(*parts, predicted[0], predicted[1], self.margin)}
