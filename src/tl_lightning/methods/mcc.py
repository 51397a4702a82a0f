"""MCC: minimum class confusion on the target.

Jin, Wang, Long, Wang (2020): Minimum Class Confusion for Versatile Domain Adaptation. ECCV.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.cdan import certainty
from tl_lightning.types import Context, Views

__all__ = ["MCC", "class_confusion"]


def class_confusion(logits: Tensor, temperature: float) -> Tensor:
    """Return the mean confusion between classes, a scalar in [0, 1).

    ``C = P' W P`` with the temperature-scaled probabilities ``P`` and their certainty weights
    ``W``. Rows are normalised to sum 1; the off-diagonal entries are summed and divided by ``K``.

    Args:
        logits: ``(B, K)``.
        temperature: Softmax temperature.
    """
    probs = (logits / temperature).softmax(1)
    weight = certainty(logits.detach() / temperature)
    confusion = probs.T @ (probs * weight[:, None])
    # The probabilities of a class may all underflow to 0; its row then counts as no confusion.
    confusion = confusion / confusion.sum(1, keepdim=True).clamp_min(1e-30)
    return (confusion.sum() - confusion.diagonal().sum()) / logits.shape[1]


class MCC(Penalty):
    """Class confusion of the target predictions; does not use the source.

    Args:
        temperature: Softmax temperature.
        kwargs: As in :class:`Penalty`.
    """

    required_domains = frozenset({"target"})

    def __init__(self, *, temperature: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the class confusion of the target logits ``(B, K)``."""
        return class_confusion(views["target"].logits, self.temperature)
