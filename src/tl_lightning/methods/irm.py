"""IRM: a classifier that is optimal in every domain at once.

Arjovsky, Bottou, Gulrajani, Lopez-Paz (2019): Invariant Risk Minimization. arXiv:1907.02893.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.methods.components.source_domains import members_of
from tl_lightning.methods.vrex import Invariance
from tl_lightning.types import Context, Views

__all__ = ["IRM", "scale_gradients"]


def scale_gradients(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the derivative ``(B,)`` of each cross-entropy by a common scale of the logits at 1.

    It is ``sum_k (p_k - y_k) z_k`` for logits ``z``, probabilities ``p`` and one-hot labels ``y``.
    """
    residual = logits.softmax(1) - functional.one_hot(labels, logits.shape[1])
    return (residual * logits).sum(1)


class IRM(Invariance):
    """IRMv1: the mean over domains of the squared gradient by a scale of the classifier.

    The square is estimated without bias by the mean over all pairs of different samples of a
    domain of the product of their gradients; the paper's appendix D multiplies those of two
    batches. A domain with a single sample in the batch is left out.
    """

    smallest_batch = 4

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the penalty; 0 if no domain has two samples."""
        view = views["source"]
        each = members_of(view, scale_gradients(view.logits, view.require("labels")))
        squares = [_squared_mean(part) for part in each if len(part) > 1]
        return torch.stack(squares).mean() if squares else view.logits.sum() * 0.0


def _squared_mean(values: Tensor) -> Tensor:
    """Return the unbiased estimate of the squared mean of values ``(N,)``."""
    number = len(values)
    return (values.sum().square() - values.square().sum()) / (number * (number - 1))
