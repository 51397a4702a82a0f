"""Self-training with a mean teacher and strong augmentation.

Sohn et al. (2020): FixMatch. NeurIPS (confident pseudo-labels of a weak view for a strong view).
Tarvainen, Valpola (2017): Mean teachers are better role models. NeurIPS (the teacher).
French, Mackiewicz, Fisher (2018): Self-ensembling for visual domain adaptation. ICLR (the
combination for domain adaptation).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.pseudo_labels import pseudo_label_loss
from tl_lightning.types import Context, Views

__all__ = ["SelfTraining"]


class SelfTraining(Penalty):
    """Cross-entropy of the strong view with the teacher's confident pseudo-labels.

    Args:
        threshold: Minimum confidence of the teacher; other samples count as 0 in the batch mean.
        momentum: Momentum of the teacher's moving average, per step.
        kwargs: As in :class:`Penalty`.
    """

    extra_views = frozenset({"target_strong"})
    required_domains = frozenset({"target"})
    teacher = "average"
    teacher_views = ("target",)

    def __init__(self, *, threshold: float, momentum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.teacher_momentum = momentum

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the mean loss for the strong view's logits ``(B, K)``."""
        teacher_logits = views["target"].require("teacher_logits")
        confidence, labels = teacher_logits.softmax(1).max(1)
        confident = confidence >= self.threshold
        ctx.log("sure", confident.float().mean())
        return pseudo_label_loss(views["target_strong"].logits, labels, confident)
