"""Whether confidences are right: calibration error, temperatures, and when to abstain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

__all__ = [
    "Bins",
    "aurc",
    "calibration_error",
    "confidences",
    "matched_temperature",
    "reliability_bins",
    "risk_coverage",
    "threshold_for",
    "weighted_temperature",
]

Array = NDArray[Any]

#: Temperatures are searched in [1/50, 50], as in ``selection.scores.temperature``.
LOG_BOUND = float(np.log(50.0))
#: Number of bins of the calibration error (Guo et al. 2017), and fewest samples in one of equal
#: mass: the error of a bin is biased upwards by the noise of its accuracy.
BINS, FEWEST = 15, 10
#: Number of thresholds that are compared.
CANDIDATES = 20


def confidences(logits: Array, scale: float = 1.0) -> Array:
    """Return the probability of the predicted class of each row, ``(N,)``.

    Args:
        logits: ``(N, K)``.
        scale: Temperature that they are divided by.

    >>> confidences(np.array([[0.0, 0.0], [np.log(3), 0.0]])).round(2).tolist()
    [0.5, 0.75]
    """
    found: Array = softmax(np.asarray(logits, dtype=np.float64) / scale, axis=1).max(axis=1)
    return found


@dataclass(frozen=True)
class Bins:
    """Bins of a reliability diagram; empty bins are left out.

    Attributes:
        confidence: Mean confidence, ``(B,)``.
        accuracy: Accuracy, ``(B,)``.
        count: Number of samples, ``(B,)``.
    """

    confidence: Array
    accuracy: Array
    count: Array


def reliability_bins(
    confidence: Array, correct: Array, bins: int = BINS, equal_mass: bool = True
) -> Bins:
    """Return the accuracy by confidence.

    Args:
        confidence: ``(N,)``, in [0, 1].
        correct: ``(N,)``, whether each prediction is right.
        bins: Number of bins.
        equal_mass: Whether bins have as many samples each, at least 10, instead of equal width.

    >>> found = reliability_bins(np.array([0.2, 0.4, 0.8]), np.array([0, 1, 1]), 2, False)
    >>> found.accuracy.tolist(), found.count.tolist()
    ([0.5, 1.0], [2, 1])
    """
    if equal_mass:
        bins = max(1, min(bins, len(confidence) // FEWEST))
        number = np.empty(len(confidence), dtype=int)
        number[np.argsort(confidence, kind="stable")] = (
            np.arange(len(confidence)) * bins // max(1, len(confidence))
        )
    else:
        number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    kept = count > 0
    sums = (np.bincount(number, weights=w, minlength=bins)[kept] for w in (confidence, correct))
    mean, accuracy = (total / count[kept] for total in sums)
    return Bins(mean, accuracy, count[kept])


def calibration_error(
    confidence: Array, correct: Array, bins: int = BINS, equal_mass: bool = True
) -> float:
    """Return the expected calibration error: the mean of |accuracy - confidence| over all samples.

    Naeini, Cooper, Hauskrecht (2015): Obtaining Well Calibrated Probabilities Using Bayesian
    Binning. AAAI; with bins of equal mass Nixon et al. (2019), arXiv:1904.01685.

    Args:
        confidence: ``(N,)``.
        correct: ``(N,)``.
        bins: As in :func:`reliability_bins`.
        equal_mass: As in :func:`reliability_bins`.

    >>> round(calibration_error(np.full(10, 0.9), np.arange(10) < 7), 3)
    0.2
    """
    found = reliability_bins(confidence, correct, bins, equal_mass)
    gaps = np.abs(found.accuracy - found.confidence)
    return float((found.count * gaps).sum() / max(1, found.count.sum()))


def matched_temperature(logits: Array, accuracy: float) -> float:
    """Return the temperature at which the mean confidence equals an accuracy, without labels.

    With an estimate of the accuracy on a target, this calibrates the target in the mean.

    Args:
        logits: ``(N, K)``.
        accuracy: In [0, 1].

    >>> z = np.array([[4.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    >>> round(float(confidences(z, matched_temperature(z, 0.7)).mean()), 3)
    0.7
    """

    def gap(log_scale: float) -> float:
        return float((confidences(logits, np.exp(log_scale)).mean() - accuracy) ** 2)

    return _searched(gap)


def weighted_temperature(logits: Array, labels: Array, weights: Array) -> float:
    """Return the temperature that minimises the importance-weighted cross-entropy of the source.

    Park, Bastani, Weimer, Lee (2020): Calibrated Prediction with Covariate Shift via Unsupervised
    Domain Adaptation. AISTATS. arXiv:2003.00343.

    Args:
        logits: ``(N, K)`` of the source.
        labels: ``(N,)``.
        weights: ``(N,)`` density ratios target / source, see
            :func:`~tl_lightning.selection.scores.ratios`.

    >>> z, y = np.array([[4.0, 0.0]] * 10), np.array([0] * 9 + [1])
    >>> weights = np.where(y == 0, 1.0, 3.0)  # accuracy 9 / 12
    >>> round(float(confidences(z, weighted_temperature(z, y, weights))[0]), 3)
    0.75
    """
    rows = np.arange(len(labels))
    share = weights / weights.sum()

    def loss(log_scale: float) -> float:
        return -float((share * log_softmax(logits / np.exp(log_scale), axis=1)[rows, labels]).sum())

    return _searched(loss)


def _searched(function: Callable[[float], float]) -> float:
    found = minimize_scalar(function, bounds=(-LOG_BOUND, LOG_BOUND), method="bounded")
    return float(np.exp(found.x))


def risk_coverage(confidence: Array, correct: Array) -> tuple[Array, Array]:
    """Return coverage and error of the most confident samples, ``(N,)`` each.

    El-Yaniv, Wiener (2010): On the Foundations of Noise-free Selective Classification. JMLR 11.
    Entry ``i`` is for the ``i + 1`` most confident samples.

    >>> coverage, risk = risk_coverage(np.array([0.9, 0.6, 0.8, 0.7]), np.array([1, 0, 1, 1]))
    >>> coverage.tolist(), risk.tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.25])
    """
    order = np.argsort(-confidence, kind="stable")
    number = np.arange(1, len(order) + 1)
    errors = np.cumsum(~np.asarray(correct, dtype=bool)[order])
    return number / max(1, len(order)), errors / number


def aurc(confidence: Array, correct: Array) -> float:
    """Return the area under the risk-coverage curve; lower is better.

    Geifman, Uziel, El-Yaniv (2019): Bias-Reduced Uncertainty Estimation. ICLR. arXiv:1805.08206.

    >>> aurc(np.array([0.9, 0.6, 0.8, 0.7]), np.array([1, 0, 1, 1]))
    0.0625
    """
    return float(risk_coverage(confidence, correct)[1].mean())


def threshold_for(
    confidence: Array, correct: Array, precision: float, doubt: float = 0.05
) -> float | None:
    """Return the lowest confidence from which a precision is assured, or None if there is none.

    As in Geifman, El-Yaniv (2017): Selective Classification for Deep Neural Networks. NeurIPS.
    arXiv:1705.08500, with the most confident 5, 10, ..., 100 % of the samples as candidates instead
    of a bisection, which misses those that it passes by: the lowest threshold whose Clopper-Pearson
    bound is at least ``precision``. All bounds hold together with probability ``1 - doubt`` for new
    samples of the same distribution.

    Args:
        confidence: ``(N,)`` of samples that the model was not trained on.
        correct: ``(N,)``.
        precision: In (0, 1).
        doubt: Probability that the precision is below.

    >>> confidence = np.linspace(0, 1, 1001)
    >>> correct = confidence > 0.5
    >>> 0.45 < threshold_for(confidence, correct, 0.9) < 0.51
    True
    >>> threshold_for(confidence[:9], correct[:9], 0.9) is None
    True
    """
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum(np.asarray(correct, dtype=bool)[order])
    for part in range(CANDIDATES, 0, -1):
        kept = len(order) * part // CANDIDATES
        if not kept:
            break
        # Samples with the same confidence are kept or left out together.
        threshold = float(confidence[order[kept - 1]])
        kept = int(np.count_nonzero(confidence >= threshold))
        if _lowest(int(right[kept - 1]), kept, doubt / CANDIDATES) >= precision:
            return threshold
    return None


def _lowest(successes: int, trials: int, doubt: float) -> float:
    """Return the one-sided lower bound of Clopper and Pearson (1934) of a probability."""
    from scipy.stats import beta  # takes most of a second, so only when it is needed

    if not successes:
        return 0.0
    return float(beta.ppf(doubt, successes, trials - successes + 1))
