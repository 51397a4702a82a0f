"""Class weights of the source by the class frequencies of the target, as in PADA.

Cao, Ma, Long, Wang (2018): Partial Adversarial Domain Adaptation. ECCV. arXiv:1808.04205.
Tachet des Combes, Zhao, Wang, Gordon (2020): Domain Adaptation with Conditional Distribution
Matching and Generalized Label Shift. NeurIPS. arXiv:2003.04475.
Saerens, Latinne, Decaestecker (2002): Adjusting the Outputs of a Classifier to New a Priori
Probabilities. Neural Computation 14.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_lightning.distributed.ranks import with_mean_one
from tl_lightning.methods.base import TargetBank
from tl_lightning.methods.components.class_sets import WeighsClasses
from tl_lightning.types import Context, Terms, Views
from tl_lightning.utils.probabilities import likely_frequencies

__all__ = ["ClassWeights", "target_to_source"]


def target_to_source(logits: Tensor, counts: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Return the weights ``q_k / p_k`` ``(K,)`` of the classes; 0 without source samples.

    ``q`` are the most likely class frequencies of the target by the calibrated predictions, see
    :func:`.likely_frequencies`; ``p`` those of the source, so that the weights have the mean 1 over
    its samples. PADA uses the mean of the predictions, in which classes that are absent but similar
    to others remain frequent. ``p`` are the frequencies before any weighting: weights hardly change
    the predictions of a network that fits the source (Byrd, Lipton 2019, ICML).

    Args:
        logits: ``(N, K)`` of target samples.
        counts: Source samples of each class ``(K,)``; None: equally many.
        temperature: Calibrates the logits.

    >>> logits = torch.tensor([[0.9, 0.1]] * 66 + [[0.1, 0.9]] * 34).log()
    >>> [round(w, 1) for w in target_to_source(logits, None).tolist()]  # 0.7 and 0.3, of halves
    [1.4, 0.6]
    """
    number = torch.ones(logits.shape[1]) if counts is None else counts.cpu()
    scaled = logits.double().cpu() / temperature
    scaled = scaled[scaled.isfinite().all(1)]
    if not len(scaled):
        return torch.ones_like(logits[0])
    q = likely_frequencies(number.double().numpy(), scaled.softmax(1).numpy())
    p = (number / number.sum()).double().numpy()
    weights = np.divide(q, p, out=np.zeros_like(q), where=p > 0)
    return torch.from_numpy(weights).to(logits)


class ClassWeights(WeighsClasses):
    """Weights the source's samples by how frequent their class seems to be in the target.

    The weights apply to the task's loss and to the source's part in the comparison of the domains
    by the other methods. They are computed from the whole target at the start of every epoch; if
    the head has random weights then, all of them are 1, as in the paper.

    Args:
        kwargs: As in :class:`.Method`.
    """

    adds_loss = False
    uses_target_bank = True
    of_classes: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("of_classes", torch.ones(self.num_classes))

    def begin_epoch(self, bank: TargetBank) -> None:
        """Compute this epoch's weights."""
        if bank.trained:
            found = target_to_source(bank.logits, self.class_counts, bank.temperature)
            self.of_classes.copy_(found)

    def source_weights(self, labels: Tensor) -> Tensor:
        """Return the weights ``(B,)`` of the samples, with mean 1 over the batch of all ranks."""
        return with_mean_one(self.of_classes[labels])

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return no term."""
        ctx.log("largest", self.of_classes.max())
        ctx.log("smallest", self.of_classes.min())
        return {}
