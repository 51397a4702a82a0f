"""Self-training with an averaging teacher and strong augmentation.

Sohn et al. (2020): FixMatch. NeurIPS (sure pseudo-labels from a weak view teach a strong one).
Tarvainen, Valpola (2017): Mean teachers are better role models. NeurIPS (the teacher).
French, Mackiewicz, Fisher (2018): Self-ensembling for visual domain adaptation. ICLR (both, between
domains).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from tl_lightning.methods.base import Penalty
from tl_lightning.types import Context, Views

__all__ = ["SelfTraining"]


class SelfTraining(Penalty):
    """Cross-entropy of the strong view with the teacher's class, where the teacher is sure.

    Args:
        threshold: Least confidence of the teacher; others count as 0 in the mean over the batch.
        momentum: Weight of the teacher's old weights, a step.
        kwargs: As in :class:`Penalty`.
    """

    needs = frozenset({"target_strong"})
    reads = frozenset({"target"})
    twin = "average"
    twin_views = ("target",)

    def __init__(self, *, threshold: float, momentum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.twin_momentum = momentum

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the mean loss of the strong view's logits ``(B, K)``."""
        teacher = views["target"].twin_logits
        assert teacher is not None
        confidence, labels = teacher.softmax(1).max(1)
        sure = confidence >= self.threshold
        ctx.log("sure", sure.float().mean())
        losses = functional.cross_entropy(views["target_strong"].logits, labels, reduction="none")
        return (losses * sure).mean()
