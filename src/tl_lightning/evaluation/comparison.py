"""Two models tested on the same samples, and one model on groups of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.errors import DataError
from tl_lightning.evaluation.metrics import fraction
from tl_lightning.evaluation.outputs import Outputs
from tl_lightning.reporting.statistics import mcnemar, newcombe

__all__ = ["MOST_GROUPS", "by_group", "compared"]

#: A group with fewer samples is not called the worst if there are larger ones.
FEWEST = 10
#: A column with more values, such as a number, has no groups.
MOST_GROUPS = 100


def compared(first: Outputs, second: Outputs) -> dict[str, Any]:
    """Compare two models on the labelled samples that both were tested on.

    McNemar's exact test: of the samples that one of the models classifies correctly and the other
    does not, each is as likely to be the first's as the second's if the models are equally good.
    The interval of the difference is Newcombe's for paired samples.

    Args:
        first: Of the model whose accuracy is the minuend.
        second: Of the other one.

    Raises:
        DataError: If the samples differ.
    """
    if first.files != second.files:
        raise DataError(
            f"the two models were tested on different samples ({len(first.files):,} and "
            f"{len(second.files):,}), and cannot be compared; set data so that both can use it"
        )
    one, two = (found.logits.argmax(1) == found.labels for found in (first, second))
    both, only_first, only_second = (
        int(part.sum()) for part in (one & two, one & ~two, ~one & two)
    )
    neither = len(one) - both - only_first - only_second
    difference = newcombe(both, only_first, only_second, neither)
    return {
        "samples": len(one),
        "accuracy": [float(one.mean()), float(two.mean())],
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p": mcnemar(only_first, only_second),
        "both": both,
        "only_first": only_first,
        "only_second": only_second,
        "neither": neither,
    }


def by_group(right: NDArray[np.bool_], values: Sequence[str]) -> dict[str, Any] | None:
    """Return the accuracy on each group of samples, and the group where it is lowest.

    Args:
        right: ``(n,)`` whether each sample was classified correctly.
        values: Value of each sample in a column of the table; those with an empty one are left out.

    Returns:
        ``{"groups": [...], "worst": name or None, "unknown": number}``, the groups by name; None
        if there are more than ``MOST_GROUPS``. ``worst`` is None if there is only one group.

    >>> found = by_group(np.array([True, False, False]), ["day", "night", "night"])
    >>> found["worst"], [group["samples"] for group in found["groups"]]
    ('night', [1, 2])
    """
    cells = np.array([value.strip() for value in values], dtype=object)
    names = sorted(set(cells) - {""})
    if len(names) > MOST_GROUPS:
        return None
    groups = []
    for name in names:
        own = right[cells == name]
        score = fraction(int(own.sum()), len(own))
        groups.append({
            "value": name, "samples": len(own), "accuracy": score.value, "low": score.low,
            "high": score.high,
        })  # fmt: skip
    large = [group for group in groups if group["samples"] >= FEWEST] or groups
    worst = min(large, key=lambda group: group["accuracy"])["value"] if len(groups) > 1 else None
    return {"groups": groups, "worst": worst, "unknown": int((cells == "").sum())}
