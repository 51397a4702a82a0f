"""MCD: maximum classifier discrepancy, trained in three alternating steps.

Saito, Watanabe, Ushiku, Harada (2018): Maximum Classifier Discrepancy for Unsupervised Domain
Adaptation. CVPR.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tl_lightning.layers import Activation, perceptron
from tl_lightning.methods.base import Method, Stage
from tl_lightning.types import Context, Terms, Views

__all__ = ["MCD", "discrepancy"]


def discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean absolute difference between the probabilities of two ``(B, K)`` logits.

    >>> import torch
    >>> round(discrepancy(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])).item(), 3)
    1.0
    """
    return (first.float().softmax(1) - second.float().softmax(1)).abs().mean()


class MCD(Method):
    """Two classifiers maximise their discrepancy on the target, the features minimise it.

    Step A trains the features and both classifiers on the source. Step B, with fixed features,
    trains both classifiers on the source and to disagree on the target. Step C, repeated
    ``repeats`` times with fixed classifiers, trains the features to make them agree. The first
    classifier is that of the head, and the one that is tested.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: ``K``.
        weight: Weight of the discrepancy; 0 disables steps B and C and the second classifier.
        repeats: Number of times step C is taken (the paper's ``n``).
        width: Hidden width of the second classifier.
        depth: Number of its hidden layers.
        dropout: Dropout probability after each hidden layer.
        activation: Activation after each hidden layer.
    """

    alternating = True
    find_unused_parameters = True

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        weight: float,
        repeats: int,
        width: int,
        depth: int,
        dropout: float,
        activation: Activation,
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.weight = weight
        self.repeats = repeats
        self.second = perceptron(in_features, width, depth, dropout, activation, num_classes)

    def plan(self) -> tuple[Stage, ...]:
        """Return steps A, B and C."""
        source = Stage("source", whole=True)
        if self.weight == 0:
            return (source,)
        return source, Stage("classifiers"), Stage("features", repeats=self.repeats)

    def strength(self, ctx: Context) -> float:
        """Return the weight."""
        return self.weight * ctx.recovery

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the terms of the current stage."""
        if self.weight == 0:
            return {}
        source, target = views["source"], views["target"]
        labels, stage = source.require("labels"), self.stage(ctx)
        if stage == "source":
            return {"mcd_second": _cross_entropy(self.second(source.features), labels)}
        if stage == "classifiers":
            f_source, f_target = source.features.detach(), target.features.detach()
            gap = discrepancy(ctx.classify(f_target), self.second(f_target))
            ctx.log("discrepancy", gap.detach())
            return {
                "mcd_first": _cross_entropy(ctx.classify(f_source), labels),
                "mcd_second": _cross_entropy(self.second(f_source), labels),
                "mcd_apart": -self.strength(ctx) * gap,
            }
        outs = [_call_frozen(net, target.features) for net in (ctx.classify, self.second)]
        return {"mcd": self.strength(ctx) * discrepancy(*outs)}


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), labels)


def _call_frozen(classifier: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Return a classifier's logits without a gradient to its parameters."""
    if not isinstance(classifier, nn.Module):
        raise TypeError(f"MCD needs Context(classify=<an nn.Module>), got {classifier!r}")
    fixed: Any = {name: p.detach() for name, p in classifier.named_parameters()}
    out: Tensor = functional_call(classifier, fixed, (features,))
    return out
