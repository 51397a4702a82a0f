"""MME: minimax entropy, for semi-supervised adaptation with few-shot target samples.

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
    """The classifier maximises the entropy of unlabelled target samples, the features minimise it.

    The paper uses a cosine classifier with temperature 0.05; here the configured head is used.
    Unlike in the other adversarial methods, the weight scales the gradients of both the classifier
    and the features, as in the paper.
    """

    extra_views = frozenset({"target_labelled"})
    required_domains = frozenset({"target"})

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the negative entropy, with a gradient reversal at the features ``(B, D)``."""
        return -mean_entropy(ctx.classify(reverse_gradient(views["target"].features, 1.0)).float())
