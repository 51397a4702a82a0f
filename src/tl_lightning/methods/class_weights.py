"""Class weights of the source by the class frequencies of the target, as in PADA.

Cao, Ma, Long, Wang (2018): Partial Adversarial Domain Adaptation. ECCV. arXiv:1808.04205.
Tachet des Combes, Zhao, Wang, Gordon (2020): Domain Adaptation with Conditional Distribution
Matching and Generalized Label Shift. NeurIPS. arXiv:2003.04475.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_lightning.distributed.ranks import rank_mean
from tl_lightning.methods.base import TargetBank
from tl_lightning.methods.components.class_sets import WeighsClasses
from tl_lightning.types import Context, Terms, Views

__all__ = ["ClassWeights", "target_to_source"]


def target_to_source(logits: Tensor, counts: Tensor | None) -> Tensor:
    """Return the weights ``q_k / p_k`` ``(K,)`` of the classes; 0 without source samples.

    ``q`` is the mean of the target's probabilities, the class weights of PADA before they are
    scaled; ``p`` are the class frequencies of the source, so that the weights have the mean 1 over
    its samples.

    Args:
        logits: ``(N, K)`` of target samples.
        counts: Source samples of each class ``(K,)``; None: equally many.

    >>> logits = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    >>> target_to_source(logits, torch.tensor([1, 3])).tolist()  # 0.6 / 0.25 and 0.4 / 0.75
    [2.4000000953674316, 0.5333333611488342]
    """
    mean = logits.float().softmax(1).mean(0)
    number = torch.ones_like(mean) if counts is None else counts.to(mean)
    weights = mean * number.sum() / number.clamp_min(1)
    return torch.where(number > 0, weights, torch.zeros_like(weights))


class ClassWeights(WeighsClasses):
    """Weights the source's samples by how frequent their class seems to be in the target.

    The weights apply to the task's loss and to the source's part in the comparison of the domains
    by the other methods. They are computed from the whole target at the start of every epoch but
    the first. As the classifier is trained with them, this is one step of the EM algorithm of MLLS
    per epoch.

    Args:
        kwargs: As in :class:`.Method`.
    """

    adds_loss = False
    uses_target_bank = True
    of_classes: Tensor
    trained: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("of_classes", torch.ones(self.num_classes))
        self.register_buffer("trained", torch.tensor(False))

    def begin_epoch(self, bank: TargetBank) -> None:
        """Compute this epoch's weights; in the first one, all are 1, as in the paper."""
        if not self.trained:  # the predictions may be those of a random head
            self.trained.fill_(True)
            return
        self.of_classes.copy_(target_to_source(bank.logits, self.class_counts))

    def source_weights(self, labels: Tensor) -> Tensor:
        """Return the weights ``(B,)`` of the samples, with mean 1 over the batch of all ranks."""
        found = self.of_classes[labels]
        return found / rank_mean(found.mean()).clamp_min(1e-12)

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return no term."""
        ctx.log("largest", self.of_classes.max())
        ctx.log("smallest", self.of_classes.min())
        return {}
