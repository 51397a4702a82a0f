"""The accuracy on a domain without labels, in percent, with an interval.

Every estimator takes calibrated probabilities of one model on labelled source validation samples
and on unlabelled target samples; :data:`ESTIMATORS` lists them. They assume that confidence means
in the target what it means in the source, which a domain shift violates more or less:
:func:`estimate_accuracy` therefore adds an interval from the errors measured on other data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax, xlogy

from tl_lightning.reliability.outputs import FiniteOutputs, finite_outputs
from tl_lightning.selection.scores import temperature

__all__ = ["ESTIMATORS", "Estimate", "Estimator", "Evidence", "estimate_accuracy", "evidence"]

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


@dataclass(frozen=True)
class Evidence:
    """What the estimators are computed from: probabilities after temperature scaling.

    Attributes:
        source: ``(n, K)`` probabilities of source validation samples.
        labels: ``(n,)`` their labels.
        target: ``(m, K)`` probabilities of target samples.
    """

    source: Array
    labels: Array
    target: Array

    @cached_property
    def correct(self) -> Array:
        """Whether each source prediction is right, ``(n,)``."""
        right: Array = self.source.argmax(axis=1) == self.labels
        return right


def source_accuracy(given: Evidence) -> float:
    """Return the accuracy on the source, the estimate of those who ignore the shift."""
    return float(given.correct.mean())


def calibrated_confidence(given: Evidence) -> float:
    """Return the mean confidence on the target.

    Guo, Pleiss, Sun, Weinberger (2017): On Calibration of Modern Neural Networks. ICML.
    """
    return float(given.target.max(axis=1).mean())


def atc(given: Evidence, score: Callable[[Array], Array]) -> float:
    """Return the fraction of target samples above the threshold of the source (ATC).

    Garg, Balakrishnan, Lipton, Neyshabur, Sedghi (2022): Leveraging Unlabeled Data to Predict
    Out-of-Distribution Performance. ICLR. arXiv:2201.04234. The threshold is that above which the
    fraction of source samples equals the source accuracy. As in :func:`temperature`, one more
    sample of each outcome is assumed: a model without source errors has a threshold too.

    Args:
        given: The probabilities.
        score: From ``(N, K)`` probabilities to a score ``(N,)``, higher if more certain.
    """
    wrong = (np.count_nonzero(~given.correct) + 1) / (len(given.correct) + 2)
    threshold = np.quantile(score(given.source), wrong)
    return float(np.mean(score(given.target) > threshold))


def max_confidence(p: Array) -> Array:
    """Return the probability of the predicted class, ``(N,)``."""
    confidence: Array = p.max(axis=1)
    return confidence


def negative_entropy(p: Array) -> Array:
    """Return the negative entropy in nats, ``(N,)``."""
    negative: Array = xlogy(p, p).sum(axis=1)
    return negative


@dataclass(frozen=True)
class Estimator:
    """An estimator of accuracy.

    Attributes:
        title: For reports.
        function: Computes it; the result is clipped to [0, 1].
    """

    title: str
    function: Callable[[Evidence], float]


#: The estimators by name.
ESTIMATORS = {
    "source": Estimator("source accuracy", source_accuracy),
    "confidence": Estimator("calibrated average confidence", calibrated_confidence),
    "atc": Estimator("ATC, maximum confidence", lambda given: atc(given, max_confidence)),
    "atc_entropy": Estimator("ATC, negative entropy", lambda given: atc(given, negative_entropy)),
}


def evidence(source_logits: Array, source_labels: Array, target_logits: Array) -> Evidence:
    """Return the probabilities at the temperature that calibrates the source.

    Args:
        source_logits: Finite, ``(n, K)``.
        source_labels: ``(n,)``.
        target_logits: Finite, ``(m, K)``.
    """
    source = np.asarray(source_logits, dtype=np.float64)
    labels = np.asarray(source_labels)
    scale = temperature(source, labels)
    target = np.asarray(target_logits, dtype=np.float64)
    return Evidence(softmax(source / scale, axis=1), labels, softmax(target / scale, axis=1))


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
