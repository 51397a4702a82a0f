"""What keeps a collapsed model from winning by a score that needs no target label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["WORST", "collapsed", "floored", "kept"]

#: Below every score; finite, so that loggers can take it, and small enough that a float32 still
#: tells one accuracy from another at this place.
WORST = -1e4


def collapsed(
    source_acc: float,
    best_source_acc: float,
    ratio: float,
    predicted: float,
    least_predicted: float,
    num_classes: int,
) -> bool:
    """Return whether a checkpoint counts as collapsed: bad on the source, or few classes left.

    Args:
        source_acc: On source validation, in [0, 1].
        best_source_acc: The best one of the run so far.
        ratio: Below ``ratio * best_source_acc`` is collapsed.
        predicted: Second value of :func:`balance`.
        least_predicted: A smaller share of the classes predicted is collapsed; a single class is
            always.
        num_classes: Classes in all.

    >>> collapsed(0.95, 0.97, 0.9, 1.0, 0.5, 10), collapsed(0.13, 0.97, 0.9, 1.0, 0.5, 10)
    (False, True)
    >>> collapsed(0.95, 0.97, 0.9, 0.2, 0.5, 10)
    True
    """
    single = num_classes > 1 and predicted <= 1 / num_classes
    return source_acc < ratio * best_source_acc or predicted < least_predicted or single


def floored(score: float, *, source_acc: float, is_collapsed: bool) -> float:
    """Return the score, or one below all where the checkpoint has collapsed or gave no number.

    Among those below all the best on the source is first: ``WORST + source_acc``.

    >>> floored(3.0, source_acc=0.5, is_collapsed=False)
    3.0
    >>> floored(3.0, source_acc=0.5, is_collapsed=True)
    -9999.5
    """
    if is_collapsed or not np.isfinite(score):
        return WORST + source_acc
    return max(score, WORST + 2)


def kept(scores: Sequence[float], source_acc: Sequence[float], ratio: float) -> int:
    """Return the checkpoint that a run keeps, given the floored scores in their order.

    A run sees one checkpoint at a time. What it keeps loses its score once the source accuracy has
    risen so far that it is below the floor: early epochs are all bad on the source.

    Args:
        scores: After :func:`floored`, at least one.
        source_acc: Source accuracy of each.
        ratio: As in :func:`collapsed`.

    >>> kept([9.0, 1.0, 2.0], [0.2, 0.9, 0.9], 0.9)
    2
    """
    place, best, top = 0, scores[0], source_acc[0]
    for now in range(1, len(scores)):
        top = max(top, source_acc[now])
        if source_acc[place] < ratio * top:
            best = WORST + source_acc[place]
        if scores[now] > best:
            place, best = now, scores[now]
    return place
