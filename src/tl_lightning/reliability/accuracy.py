"""The accuracy to expect on a domain without labels, with an interval.

The estimators in ``estimators.py`` assume that confidence means in the target what it means in the
source, which a domain shift violates more or less. :func:`estimate_accuracy` combines them, and
adds an interval from the errors measured on other data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.errors import DataError
from tl_lightning.reliability.combination import Combination
from tl_lightning.reliability.estimators import agreement, estimates
from tl_lightning.reliability.outputs import FiniteOutputs, finite_outputs

__all__ = ["Estimate", "estimate_accuracy", "matching_predictions", "trains_on_target"]

Array = NDArray[Any]

#: The combinations by scripts/accuracy_study.py, 30 November 2026: 55 pairs of a model and a target
#: on CIFAR-10, Dogs, PACS, MNIST and USPS, digits, IMDb and vectors (docs/measurements.md). Each
#: factor makes the interval contain 90 % of the true accuracies on datasets that are left out; with
#: the factor of the other datasets it contained 86, 73 and 85 %.
_MEAN = dict.fromkeys(("confidence", "atc", "cot", "cott"), 0.25)
#: For a model not trained on target samples: 29 pairs, 8.3 points in the mean, 50.6 at worst.
ALONE = Combination(_MEAN, factor=1.76)
#: For a model trained on target samples: 26 pairs, 15.9 points in the mean, 54.0 at worst.
ADAPTED = Combination(_MEAN, factor=3.21)
#: For a model compared with others: 48 pairs, 6.6 points in the mean, 25.3 at worst, with the
#: model of the highest estimate. With the median of several, on 34 other pairs: 7.1 and 21.3, and
#: the interval contained 82 %.
COMPARED = Combination(_MEAN, factor=1.65, limit="other")
#: Methods that do not train on the target: they only compute statistics of its samples.
_STATISTICS = frozenset({"adabn", "align", "class_weights", "dsbn", "mixstyle", "relative_bn"})
#: Fewer samples than this give a warning.
FEW_SAMPLES = 50


@dataclass(frozen=True)
class Estimate:
    """An estimated accuracy.

    Attributes:
        value: The accuracy, in [0, 1].
        low: Lower end of the interval, in [0, 1].
        high: Upper end of the interval, in [0, 1].
        estimators: The estimate of every single estimator by name, in [0, 1].
        warnings: What makes the estimate less reliable, one message each.
    """

    value: float
    low: float
    high: float
    estimators: Mapping[str, float]
    warnings: tuple[str, ...]


def trains_on_target(methods: Iterable[str]) -> bool:
    """Return whether any of these adaptation methods trains on samples of the target.

    >>> trains_on_target(["relative_bn"]), trains_on_target(["relative_bn", "mcc"])
    (False, True)
    """
    return not _STATISTICS.issuperset(methods)


def estimate_accuracy(
    source_logits: Array,
    source_labels: Array,
    target_logits: Array,
    *,
    adapted: bool = False,
    other_logits: Array | Sequence[Array] | None = None,
) -> Estimate:
    """Return the accuracy to expect on target samples without labels.

    A model may be certain of wrong predictions, above all one that was trained on target samples.
    Another model shows this: where two models that were trained differently disagree, at least one
    is wrong, so the estimate is at most their agreement, and its interval narrower. Of several
    models, the median of the agreements counts, as one of them may have collapsed.

    Rows that are not finite are left out on the source; on the target they count as wrong.

    Args:
        source_logits: ``(n, K)`` of labelled source samples that the model was not trained on.
        source_labels: ``(n,)``.
        target_logits: ``(m, K)`` of the same model.
        adapted: Whether the model was trained on target samples, see :func:`trains_on_target`.
        other_logits: ``(m, K)`` of another model on the same target samples, or those of several:
            with and without adaptation, or with another backbone or method.

    Raises:
        DataError: If the arrays do not match, or a domain has no sample with finite predictions.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 2000)
    >>> source = rng.normal(size=(2000, 3)) + 3 * np.eye(3)[labels]
    >>> target = rng.normal(size=(2000, 3)) + np.eye(3)[labels]
    >>> estimate = estimate_accuracy(source, labels, target)
    >>> round(estimate.estimators["source"], 2), estimate.low < estimate.value < estimate.high
    (0.97, True)
    """
    outputs = finite_outputs(source_logits, source_labels, target_logits)
    single = estimates(outputs)
    combination = ADAPTED if adapted else ALONE
    others = [other_logits] if isinstance(other_logits, np.ndarray) else other_logits
    if others:
        combination = COMPARED
        agreements = [matching_predictions(target_logits, other) for other in others]
        single["other"] = float(np.median(agreements))
    value = combination.value(single)
    low, high = combination.interval(single, len(outputs.source), len(outputs.target))
    valid = len(outputs.target) / outputs.target_rows
    return Estimate(
        valid * value,
        valid * low,
        valid * high,
        {name: valid * estimate for name, estimate in single.items()},
        _warnings(outputs, certain=combination is ADAPTED),
    )


def matching_predictions(target_logits: Array, other_logits: Array) -> float:
    """Return the agreement of two models on the rows that are finite for both.

    Raises:
        DataError: If the shapes differ, or there is no such row.
    """
    target, other = np.asarray(target_logits), np.asarray(other_logits)
    if target.shape != other.shape:
        raise DataError(
            "the target logits of the other model must be those of the same samples and classes, "
            f"{target.shape}, got {other.shape}"
        )
    finite = np.isfinite(target).all(axis=1) & np.isfinite(other).all(axis=1)
    if not finite.any():
        raise DataError(
            f"the two models have no finite predictions of the same of the {len(target)} target "
            "samples, so that their agreement is not known; pass other_logits=None"
        )
    return agreement(target[finite], other[finite])


def _warnings(outputs: FiniteOutputs, certain: bool) -> tuple[str, ...]:
    found = []
    if certain:
        found.append(
            "The model was trained on target samples, which makes it confident there also where it "
            "is wrong; compare it with one that was not, such as model=source_only."
        )
    if missing := outputs.source_rows - len(outputs.source):
        found.append(
            f"{missing} of {outputs.source_rows} source validation predictions are not finite and "
            "were left out."
        )
    if missing := outputs.target_rows - len(outputs.target):
        found.append(
            f"{missing} of {outputs.target_rows} target predictions are not finite and count as "
            "wrong."
        )
    classes = outputs.source.shape[1]
    if missing := classes - len(np.unique(outputs.labels)):
        found.append(
            f"{missing} of {classes} classes have no source validation sample: their accuracy is "
            "assumed to be that of the others."
        )
    sizes = {"source validation": len(outputs.source), "target": len(outputs.target)}
    for domain, number in sizes.items():
        if number < FEW_SAMPLES:
            found.append(f"There are only {number} {domain} samples.")
    if np.array_equal(outputs.source.argmax(axis=1), outputs.labels):
        found.append(
            "All source validation samples are predicted correctly, so that it is not known how "
            "certain the model is of its errors."
        )
    predicted = len(np.unique(outputs.target.argmax(axis=1)))
    if classes > 1 and predicted == 1 < len(outputs.target):
        found.append("All target samples are predicted as one class.")
    return tuple(found)
