"""Metrics of a target whose classes are not those of the source."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["ClassSetScores", "class_set_scores", "h_score"]


def h_score(known: float, unknown: float) -> float:
    """Return the harmonic mean of known-class accuracy and unknown recall.

    Fu, Cao, Long, Wang (2020): Learning to Detect Open Classes for Universal Domain Adaptation.
    ECCV. As in most papers, ``known`` is the mean over the known classes.

    >>> round(h_score(0.8, 0.4), 3), h_score(0.0, 0.0)
    (0.533, 0.0)
    """
    return 2 * known * unknown / (known + unknown) if known + unknown > 0 else 0.0


def class_set_scores(right: Tensor, number: Tensor) -> dict[str, float]:
    """Return the metrics by name; those of unknown samples only if there are any.

    ``known_acc`` is the fraction of all samples of known classes that are right,
    ``known_class_acc`` the mean of that fraction over the known classes that occur. A rejected
    sample of a known class is wrong. ``unknown_recall`` is the fraction of unknown samples that are
    rejected, ``h_score``
    the :func:`h_score` of ``known_class_acc`` and ``unknown_recall``.

    Args:
        right: Samples of each class ``(K + 1,)`` that are right, the unknown ones last.
        number: Samples of each class ``(K + 1,)``.

    >>> found = class_set_scores(torch.tensor([8, 1, 0, 3]), torch.tensor([10, 2, 0, 4]))
    >>> {name: round(value, 3) for name, value in found.items()}
    {'known_acc': 0.75, 'known_class_acc': 0.65, 'unknown_recall': 0.75, 'h_score': 0.696}
    """
    right, number = right.double(), number.double()
    known, occurs = number[:-1], number[:-1] > 0
    found = {}
    if occurs.any():
        found["known_acc"] = float(right[:-1].sum() / known.sum())
        found["known_class_acc"] = float((right[:-1][occurs] / known[occurs]).mean())
    if number[-1] > 0:
        found["unknown_recall"] = float(right[-1] / number[-1])
        if occurs.any():
            found["h_score"] = h_score(found["known_class_acc"], found["unknown_recall"])
    return found


class ClassSetScores(Metric):
    """:func:`class_set_scores`, exact over batches and ranks.

    Args:
        num_classes: ``K``; unknown samples have the label ``K``.
    """

    full_state_update = False
    right: Tensor
    number: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        zeros = torch.zeros(num_classes + 1, dtype=torch.long)
        self.add_state("right", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("number", zeros.clone(), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add predictions and labels ``(B,)``; ``K`` stands for unknown in both."""
        size = len(self.number)
        self.number += torch.bincount(labels, minlength=size)
        self.right += torch.bincount(labels[predicted == labels], minlength=size)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics over all samples added so far."""
        found = class_set_scores(self.right, self.number)
        return {name: torch.tensor(value) for name, value in found.items()}
