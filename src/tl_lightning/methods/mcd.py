"""MCD: maximum classifier discrepancy, in three alternating steps.

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
from tl_lightning.methods.base import Adapter, Stage
from tl_lightning.types import Context, Terms, Views

__all__ = ["MCD", "discrepancy"]


def discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean absolute difference of two classifiers' probabilities ``(B, K)``.

    >>> import torch
    >>> round(discrepancy(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])).item(), 3)
    1.0
    """
    return (first.float().softmax(1) - second.float().softmax(1)).abs().mean()


class MCD(Adapter):
    """Two classifiers disagree where the target is far from the source; features mend that.

    A: everything learns the source, both classifiers alike. B: both classifiers learn the source
    and to disagree on the target, the features stand still. C, ``repeats`` times: the features
    learn to make them agree. The first classifier is the head's, and the one that is tested.

    Args:
        in_features: Width ``D`` of the features.
        num_classes: ``K``.
        weight: Of the discrepancy; 0 leaves out B, C and the second classifier.
        repeats: How often C (the paper's ``n``).
        width: Hidden width of the second classifier.
        depth: Number of its hidden layers.
        dropout: After each hidden layer.
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
        """Return A, B and C."""
        learn = Stage("source", whole=True)
        if self.weight == 0:
            return (learn,)
        return learn, Stage("classifiers"), Stage("features", repeats=self.repeats)

    def strength(self, progress: float) -> float:
        """Return the weight."""
        return self.weight

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the terms of the stage that is due."""
        if self.weight == 0:
            return {}
        source, target = views["source"], views["target"]
        assert source.labels is not None
        if ctx.stage == "source":
            return {"mcd_second": _cross_entropy(self.second(source.features), source.labels)}
        if ctx.stage == "classifiers":
            seen, unseen = source.features.detach(), target.features.detach()
            gap = discrepancy(ctx.classify(unseen), self.second(unseen))
            ctx.log("discrepancy", gap.detach())
            return {
                "mcd_first": _cross_entropy(ctx.classify(seen), source.labels),
                "mcd_second": _cross_entropy(self.second(seen), source.labels),
                "mcd_apart": -self.weight * gap,
            }
        gap = discrepancy(_held(ctx.classify, target.features), _held(self.second, target.features))
        return {"mcd": self.weight * gap}


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), labels)


def _held(classifier: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Return a classifier's logits with its own parameters held constant."""
    assert isinstance(classifier, nn.Module)
    fixed: Any = {name: p.detach() for name, p in classifier.named_parameters()}
    out: Tensor = functional_call(classifier, fixed, (features,))
    return out
