"""MME: minimax entropy, for a target of which a few pictures are labelled.

Saito, Kim, Sclaroff, Darrell, Saenko (2019): Semi-supervised Domain Adaptation via Minimax Entropy.
ICCV.
"""

from __future__ import annotations

from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.gradient_reversal import reverse_gradient
from tl_lightning.methods.entropy import mean_entropy
from tl_lightning.types import Context, Views

__all__ = ["MME"]


class MME(Penalty):
    """The classifier raises the entropy of unlabelled target pictures, the features lower it.

    The paper's classifier compares directions (cosine, temperature 0.05); here it is the head as it
    is configured. Unlike the other adversaries, the term's weight scales both players, as in the
    paper.
    """

    needs = frozenset({"target_labelled"})
    reads = frozenset({"target"})

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return minus the entropy, seen through a reversal by the features ``(B, D)``."""
        return -mean_entropy(ctx.classify(reverse_gradient(views["target"].features, 1.0)).float())
