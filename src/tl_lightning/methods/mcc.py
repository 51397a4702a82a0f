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
    """Return the mean share of confusion between classes, a scalar in [0, 1).

    ``C = P' W P`` with ``P`` the softened probabilities and ``W`` their certainty; its rows are
    scaled to sum 1, and what lies off the diagonal is summed and divided by ``K``.

    Args:
        logits: ``(B, K)``.
        temperature: Divides the logits.
    """
    shares = (logits / temperature).softmax(1)
    weight = certainty(logits.detach() / temperature)
    confusion = shares.T @ (shares * weight[:, None])
    # Probabilities of a class that no sample can be of round to 0: its row then is no confusion.
    confusion = confusion / confusion.sum(1, keepdim=True).clamp_min(1e-30)
    return (confusion.sum() - confusion.diagonal().sum()) / logits.shape[1]


class MCC(Penalty):
    """The class confusion of the target's predictions; needs no source.

    Args:
        temperature: Of the probabilities.
        kwargs: As in :class:`Penalty`.
    """

    reads = frozenset({"target"})

    def __init__(self, *, temperature: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the confusion of the target's logits ``(B, K)``."""
        return class_confusion(views["target"].logits, self.temperature)
