"""The accuracy to expect on a domain without labels, with an interval.

The estimators in ``estimators.py`` assume that confidence means in the target what it means in the
source, which a domain shift violates more or less. :func:`estimate_accuracy` combines them, and
adds an interval from the errors measured on other data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.reliability.estimators import ESTIMATORS, Evidence, evidence
from tl_lightning.reliability.outputs import FiniteOutputs, finite_outputs

__all__ = ["Estimate", "estimate_accuracy"]

Array = NDArray[Any]

#: Half the width of the interval: the worst error of ATC over nine (model, domain) pairs of dogs
#: and PACS. Preliminary.
HALF_WIDTH = 0.26
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


def estimate_accuracy(source_logits: Array, source_labels: Array, target_logits: Array) -> Estimate:
    """Return the accuracy to expect on target samples without labels.

    Rows that are not finite are left out on the source; on the target they count as wrong.

    Args:
        source_logits: ``(n, K)`` of labelled source samples that the model was not trained on.
        source_labels: ``(n,)``.
        target_logits: ``(m, K)`` of the same model.

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
    given = evidence(outputs.source, outputs.labels, outputs.target)
    valid = len(outputs.target) / outputs.target_rows
    single = {
        name: valid * float(np.clip(estimator.function(given), 0.0, 1.0))
        for name, estimator in ESTIMATORS.items()
    }
    value = single["atc_entropy"]
    low, high = max(0.0, value - HALF_WIDTH), min(1.0, value + HALF_WIDTH)
    return Estimate(value, low, high, single, _warnings(given, outputs))


def _warnings(given: Evidence, outputs: FiniteOutputs) -> tuple[str, ...]:
    found = []
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
    classes = given.source.shape[1]
    if missing := classes - len(np.unique(given.labels)):
        found.append(
            f"{missing} of {classes} classes have no source validation sample: their accuracy "
            "is assumed to be that of the others."
        )
    for domain, number in (("source validation", len(given.source)), ("target", len(given.target))):
        if number < FEW_SAMPLES:
            found.append(f"There are only {number} {domain} samples.")
    if given.correct.all():
        found.append(
            "All source validation samples are predicted correctly, so that the estimate does not "
            "know what an error looks like."
        )
    if classes > 1 and len(np.unique(given.target.argmax(axis=1))) == 1 < len(given.target):
        found.append("All target samples are predicted as one class.")
    return tuple(found)
