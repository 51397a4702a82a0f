"""Collapse filter: excludes collapsed models from model selection without target labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["WORST", "apply_collapse_filter", "collapsed", "kept"]

#: Lower than every score; finite, so that it can be logged, and small enough for float32 to still
#: resolve an accuracy added to it.
WORST = -1e4


def collapsed(
    source_acc: float,
    best_source_acc: float,
    ratio: float,
    predicted: float,
    min_predicted_classes: float,
    num_classes: int,
) -> bool:
    """Return whether a model has collapsed: low source accuracy, or few predicted classes.

    Args:
        source_acc: Accuracy on source validation, in [0, 1].
        best_source_acc: Best source accuracy seen in the run.
        ratio: A model has collapsed if its accuracy is below ``ratio * best_source_acc``.
        predicted: Fraction of predicted classes, the second value of :func:`balance`.
        min_predicted_classes: A model has collapsed if ``predicted`` is below this fraction, or if
            it predicts a single class.
        num_classes: Number of classes.

    >>> collapsed(0.95, 0.97, 0.9, 1.0, 0.5, 10), collapsed(0.13, 0.97, 0.9, 1.0, 0.5, 10)
    (False, True)
    >>> collapsed(0.95, 0.97, 0.9, 0.2, 0.5, 10)
    True
    """
    single = num_classes > 1 and predicted <= 1 / num_classes
    return source_acc < ratio * best_source_acc or predicted < min_predicted_classes or single


def apply_collapse_filter(score: float, *, source_acc: float, is_collapsed: bool) -> float:
    """Return the score, or one below all others if the model has collapsed or it is not finite.

    Rejected models are ordered by source accuracy: their score is ``WORST + source_acc``.

    >>> apply_collapse_filter(3.0, source_acc=0.5, is_collapsed=False)
    3.0
    >>> apply_collapse_filter(3.0, source_acc=0.5, is_collapsed=True)
    -9999.5
    """
    if is_collapsed or not np.isfinite(score):
        return WORST + source_acc
    return max(score, WORST + 2)


def kept(scores: Sequence[float], source_acc: Sequence[float], ratio: float) -> int:
    """Return the index of the model that a run keeps, given its filtered scores by epoch.

    A run sees one model at a time. The best model is demoted once the best source accuracy has
    risen so far that it counts as collapsed: source accuracy is low in all early epochs.

    Args:
        scores: Results of :func:`apply_collapse_filter`, at least one.
        source_acc: Source accuracy of each model.
        ratio: See :func:`collapsed`.

    >>> kept([9.0, 1.0, 2.0], [0.2, 0.9, 0.9], 0.9)
    2
    """
    best, best_score, best_acc = 0, scores[0], source_acc[0]
    for i in range(1, len(scores)):
        best_acc = max(best_acc, source_acc[i])
        if source_acc[best] < ratio * best_acc:
            best_score = WORST + source_acc[best]
        if scores[i] > best_score:
            best, best_score = i, scores[i]
    return best
