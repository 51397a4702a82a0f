"""Estimators of the accuracy on a domain without labels.

Each takes probabilities of one model on labelled source samples, which it was not trained on, and
on target samples, both at the temperature that calibrates the source. :data:`ESTIMATORS` lists
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy

from tl_lightning.reliability.label_shift import bbse, mlls
from tl_lightning.reliability.outputs import FiniteOutputs
from tl_lightning.utils.spread import spread

__all__ = ["ESTIMATORS", "Estimator", "Evidence", "agreement", "estimates"]

Array = NDArray[Any]

#: Maximum number of rows that are transported to labels.
TRANSPORTED = 1000


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

    @cached_property
    def wrong(self) -> float:
        """The source error, with one more sample of each outcome, as in ``temperature``."""
        return (np.count_nonzero(~self.correct) + 1) / (len(self.correct) + 2)

    @cached_property
    def target_costs(self) -> Array:
        """Costs of moving target predictions to labels, see :func:`cot`."""
        return _transport_costs(self.target, self.labels)


def source_accuracy(given: Evidence) -> float:
    """Return the accuracy on the source, the estimate of those who ignore the shift."""
    return float(given.correct.mean())


def confidence(given: Evidence) -> float:
    """Return the mean confidence on the target.

    Guo, Pleiss, Sun, Weinberger (2017): On Calibration of Modern Neural Networks. ICML.
    """
    return float(given.target.max(axis=1).mean())


def doc(given: Evidence) -> float:
    """Return the source accuracy minus the loss of mean confidence (DoC).

    Guillory, Shankar, Ebrahimi, Darrell, Schmidt (2021): Predicting with Confidence on Unseen
    Distributions. ICCV.
    """
    lost = given.source.max(axis=1).mean() - given.target.max(axis=1).mean()
    return float(given.correct.mean() - lost)


def atc(given: Evidence, score: Callable[[Array], Array]) -> float:
    """Return the fraction of target samples above the threshold of the source (ATC).

    Garg, Balakrishnan, Lipton, Neyshabur, Sedghi (2022): Leveraging Unlabeled Data to Predict
    Out-of-Distribution Performance. ICLR. arXiv:2201.04234. The threshold is that below which the
    fraction of source samples equals the source error; see :attr:`Evidence.wrong` for a source
    without errors.

    Args:
        given: The probabilities.
        score: From ``(N, K)`` probabilities to a score ``(N,)``, higher if more certain.
    """
    threshold = np.quantile(score(given.source), given.wrong)
    return float(np.mean(score(given.target) > threshold))


def max_confidence(p: Array) -> Array:
    """Return the probability of the predicted class, ``(N,)``."""
    highest: Array = p.max(axis=1)
    return highest


def negative_entropy(p: Array) -> Array:
    """Return the negative entropy in nats, ``(N,)``."""
    negative: Array = xlogy(p, p).sum(axis=1)
    return negative


def cot(given: Evidence) -> float:
    """Return 1 minus the mean cost of moving target predictions to source labels (COT).

    Lu, Wang, Zhai, Kolouri, Campbell, Sycara (2023): Predicting Out-of-Distribution Error with
    Confidence Optimal Transport. arXiv:2302.05018. The cost of moving a prediction p to the label y
    is ``1 - p_y``; the labels are as frequent as those of the source. In contrast to the mean
    confidence, it recognises a model that predicts one class with certainty.
    """
    return 1.0 - float(given.target_costs.mean())


def cott(given: Evidence) -> float:
    """Return the fraction of target samples moved at a cost below the threshold (COTT).

    Lu et al. (2023): Characterizing Out-of-Distribution Error via Optimal Transport. NeurIPS.
    arXiv:2305.15640. As :func:`atc`, with the costs of :func:`cot` as scores.
    """
    threshold = np.quantile(-_transport_costs(given.source, given.labels), given.wrong)
    return float(np.mean(-given.target_costs > threshold))


def nuclear(given: Evidence) -> float:
    """Return the source accuracy times the ratio of the nuclear norms of target and source.

    Deng, Suh, Gould, Zheng (2023): Confidence and Dispersity Speak: Characterising Prediction
    Matrix for Unsupervised Accuracy Estimation. ICML. They fit a regression to the norm of
    many targets.
    """
    rows = min(len(given.source), len(given.target))
    of_source, of_target = (
        np.linalg.norm(p[spread(len(p), rows)], ord="nuc") for p in (given.source, given.target)
    )
    return float(given.correct.mean() * of_target / of_source)


def mano(given: Evidence) -> float:
    """Return the source accuracy times the ratio of the fourth norms of target and source (MaNo).

    Xie, Odonnat, Feofanov, Deng, Zhang, An (2024): MaNo: Exploiting Matrix Norm for Unsupervised
    Accuracy Estimation Under Distribution Shifts. NeurIPS. arXiv:2405.18979. They fit a regression
    to the norm of many targets; the temperature takes the place of their normalisation.
    """
    of_source, of_target = (np.mean(p**4) ** 0.25 for p in (given.source, given.target))
    return float(given.correct.mean() * of_target / of_source)


def reweighted(given: Evidence) -> float:
    """Return the accuracy of the source at the class frequencies of the target (BBSE).

    The recall of each class is that of the source; see :func:`~.label_shift.bbse`.
    """
    one_hot = np.eye(given.source.shape[1])
    source, target = (one_hot[p.argmax(axis=1)] for p in (given.source, given.target))
    return _at_mix(given, bbse(source, given.labels, target))


def reweighted_soft(given: Evidence) -> float:
    """Return the same at frequencies of maximum likelihood, see :func:`~.label_shift.mlls`."""
    return _at_mix(given, mlls(given.labels, given.target))


def agreement(first: Array, second: Array) -> float:
    """Return the fraction of equal predictions of two models (GDE).

    Jiang, Nagarajan, Baek, Kolter (2022): Assessing Generalization of SGD via Disagreement. ICLR.
    arXiv:2106.13799. Of two seeds, it is the accuracy if an ensemble of many is calibrated on the
    target. Of two models that were trained differently, it shows predictions that are certain but
    wrong.

    Args:
        first: ``(N, K)``.
        second: ``(N, K)``, of the same samples.

    >>> agreement(np.eye(4), np.eye(4)[[0, 1, 2, 2]])
    0.75
    """
    return float(np.mean(first.argmax(axis=1) == second.argmax(axis=1)))


@dataclass(frozen=True)
class Estimator:
    """An estimator of accuracy.

    Attributes:
        title: For reports.
        function: Computes it; the result may be slightly outside of [0, 1].
    """

    title: str
    function: Callable[[Evidence], float]


#: The estimators by name.
ESTIMATORS = {
    "source": Estimator("source accuracy", source_accuracy),
    "confidence": Estimator("calibrated average confidence", confidence),
    "doc": Estimator("difference of confidences", doc),
    "atc": Estimator("ATC, maximum confidence", lambda given: atc(given, max_confidence)),
    "atc_entropy": Estimator("ATC, negative entropy", lambda given: atc(given, negative_entropy)),
    "cot": Estimator("confidence optimal transport", cot),
    "cott": Estimator("optimal transport with a threshold", cott),
    "nuclear": Estimator("ratio of nuclear norms", nuclear),
    "mano": Estimator("ratio of fourth norms (MaNo)", mano),
    "bbse": Estimator("source recall at the classes of BBSE", reweighted),
    "mlls": Estimator("source recall at the classes of MLLS", reweighted_soft),
}


def estimates(outputs: FiniteOutputs) -> dict[str, float]:
    """Return the estimate of each estimator by name, in [0, 1]."""
    source, target = outputs.probabilities()
    given = Evidence(source, outputs.labels, target)
    return {
        name: float(np.clip(estimator.function(given), 0.0, 1.0))
        for name, estimator in ESTIMATORS.items()
    }


def _transport_costs(p: Array, labels: Array) -> Array:
    """Return the cost of each row, at most :data:`TRANSPORTED` of them."""
    p = p[spread(len(p), TRANSPORTED)]
    quantiles = (np.arange(len(p)) + 0.5) / len(p) * len(labels)
    drawn = np.sort(labels)[quantiles.astype(int)]
    cost = 1.0 - p[:, drawn]
    costs: Array = cost[linear_sum_assignment(cost)]
    return costs


def _at_mix(given: Evidence, mix: Array) -> float:
    """Return the mean recall of the source, weighted by class frequencies ``(K,)``."""
    classes = len(mix)
    number = np.bincount(given.labels, minlength=classes)
    right = np.bincount(given.labels[given.correct], minlength=classes)
    known = number > 0
    recall = np.where(known, right / np.maximum(number, 1), given.correct.mean())
    return float(recall @ mix)
