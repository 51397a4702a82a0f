"""What is done with a classifier's outputs on the target, fitted after training without labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tl_lightning.layers import DomainAwareNorm, Part

__all__ = ["PriorCorrection", "Rejection", "Score", "unfamiliarity"]

#: Scores by which samples of no class of the source are recognised; ``method`` is that of a
#: :class:`.RecognisesUnknown`.
Score = Literal["entropy", "energy", "method"]


def unfamiliarity(logits: Tensor, score: Score, temperature: Tensor) -> Tensor:
    """Return how little each sample ``(B,)`` looks like one of the classes; higher is less.

    The score ``method`` does not follow from the logits.

    ``entropy``: that of the calibrated probabilities divided by ``log K``, in [0, 1], as in SHOT
    (Liang, Hu, Feng 2020, ICML, open-set). ``energy``: ``-T logsumexp(z / T)`` (Liu, Wang, Owens,
    Li 2020, NeurIPS, arXiv:2010.03759).

    Args:
        logits: ``(B, K)``.
        score: Kind of the score.
        temperature: ``T``.

    >>> logits = torch.tensor([[9.0, -9.0], [0.0, 0.0]])
    >>> unfamiliarity(logits, "entropy", torch.tensor(1.0)).numpy().round(4).tolist()
    [0.0, 1.0]
    """
    scaled = logits.float() / temperature
    if score == "energy":
        return -temperature * scaled.logsumexp(1)
    logp = scaled.log_softmax(1)
    return -(logp.exp() * logp).sum(1) / torch.log(torch.tensor(float(logits.shape[1])))


class PriorCorrection(DomainAwareNorm):
    """Adds a fraction of ``T log(q / p)`` to the logits of target samples, for label shift.

    ``p`` are the frequencies of the classes that the classifier was trained with, ``q`` those
    estimated for the target: Bayes' rule for a classifier whose classes look the same in both
    domains but are not as frequent (Saerens, Latinne, Decaestecker 2002). It applies in evaluation,
    and is zero until it is fitted.

    Args:
        num_classes: ``K``.

    Attributes:
        explained: The fraction; None if it was not fitted in this process.
    """

    shift: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.parts = [Part("target", 0)]
        self.register_buffer("shift", torch.zeros(num_classes))
        self.explained: float | None = None

    def forward(self, logits: Tensor) -> Tensor:
        """Return the logits ``(B, K)``; those of the source, and of training, unchanged."""
        if self.training or {part.domain for part in self.parts} != {"target"}:
            return logits
        return logits + self.shift.to(logits.dtype)


class Rejection(nn.Module):
    """Recognises samples of no class of the source by a score above a threshold.

    Args:
        score: See :func:`unfamiliarity`.
    """

    temperature: Tensor
    threshold: Tensor

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score: Score = score
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(float("inf")))

    def forward(self, logits: Tensor) -> Tensor:
        """Return the score of each sample ``(B,)``."""
        return unfamiliarity(logits, self.score, self.temperature)

    def rejects(self, scores: Tensor) -> Tensor:
        """Return which samples ``(B,)`` with these scores are taken for none of the classes."""
        return scores > self.threshold
