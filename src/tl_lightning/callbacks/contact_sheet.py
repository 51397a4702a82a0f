"""Choice of the samples in the contact sheet of predictions without labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tl_lightning.utils.spread import spread

__all__ = ["sheet_of"]

#: Maximum number of classes in the sheet, and minimum and maximum number of samples of each.
CLASSES, FEWEST, MOST = 12, 3, 8
#: Number of samples in the sheet, if that many classes and samples allow it.
SAMPLES = 48


def sheet_of(scores: Mapping[int, Sequence[Any]]) -> list[int]:
    """Return the indices of samples to show for each of the most frequently predicted classes.

    Those of a class are spread evenly over its samples in the order of confidence, from the most to
    the least confident one.

    Args:
        scores: By index: the true class, the predicted class, its probability, ...

    >>> sheet_of({0: (-1, 7, 0.9), 1: (-1, 7, 0.5), 2: (-1, 4, 0.8)})
    [0, 1, 2]
    """
    classes: dict[int, list[int]] = defaultdict(list)
    for index, (_, predicted, *_) in sorted(scores.items()):
        classes[predicted].append(index)
    order = sorted(classes, key=lambda name: (-len(classes[name]), name))[:CLASSES]
    count = min(MOST, max(FEWEST, SAMPLES // max(1, len(order))))
    chosen = []
    for name in order:
        members = sorted(classes[name], key=lambda index: (-scores[index][2], index))
        chosen += [members[place] for place in spread(len(members), count)]
    return chosen
