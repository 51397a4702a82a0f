"""Scores of a pretrained network on labelled data, without training; higher is better for all.

``N`` samples, ``D`` features of the network, ``K`` classes, and ``Z`` classes that the network was
trained to predict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import entr, softmax

__all__ = ["SCORES", "Sample", "Transferability", "h_score", "leep", "log_me", "nce"]

Array = NDArray[Any]

#: Fixed-point iterations of LogME; the authors use 11, which is enough for most data.
ITERATIONS = 100
#: Change of ``alpha / beta``, relative to its value, at which they stop.
TOLERANCE = 1e-3
#: Largest ratio of ``alpha`` to ``beta``, and of ``beta`` to the inverse of the mean square.
LARGEST = 1e8
#: Singular values below this fraction of the largest are treated as zero.
SMALLEST = 1e-6


@dataclass(frozen=True)
class Sample:
    """What the scores are computed from.

    Attributes:
        features: ``(N, D)``.
        labels: Class indices ``(N,)``.
        logits: ``(N, Z)``, outputs of the classifier that the network was trained with, or None if
            there is none.
    """

    features: Array
    labels: Array
    logits: Array | None = None


def log_me(features: Array, labels: Array) -> float:
    r"""Return the logarithm of maximum evidence (LogME), in nats per sample and class.

    You, Liu, Wang, Long (2021): LogME: Practical Assessment of Pre-trained Models for Transfer
    Learning. ICML; the fixed-point iteration is that of You et al. (2022), JMLR 23. For each class,
    its indicator :math:`y` is a linear function of the features with a normal prior of precision
    :math:`\alpha` on the weights, and normal noise of precision :math:`\beta`:
    :math:`\max_{\alpha, \beta} \log N(y; 0, I / \beta + F F^T / \alpha) / N`, averaged over the
    classes that occur. As in the paper, the function has no intercept.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 50)
    >>> good, bad = y[:, None] + 0.1 * rng.normal(size=(100, 3)), rng.normal(size=(100, 3))
    >>> log_me(good, y) > log_me(bad, y)
    True
    """
    f = np.asarray(features, np.float64)
    classes = np.unique(labels)
    y = (np.asarray(labels)[:, None] == classes).astype(np.float64)
    rows, columns = f.shape
    # Squared singular values, and the coordinates of y in the left singular vectors.
    if columns <= rows:
        squares, vectors = np.linalg.eigh(f.T @ f)
        kept = squares > SMALLEST**2 * squares[-1]
        squares = squares[kept]
        projected = (vectors[:, kept].T @ (f.T @ y)) / np.sqrt(squares)[:, None]
    else:
        squares, vectors = np.linalg.eigh(f @ f.T)
        kept = squares > SMALLEST**2 * squares[-1]
        squares, projected = squares[kept], vectors[:, kept].T @ y
    total = (y**2).sum(axis=0)
    found = [
        _evidence(squares, projected[:, k] ** 2, total[k], rows, columns)
        for k in range(len(classes))
    ]
    return float(np.mean(found))


def _evidence(squares: Array, inside: Array, total: float, rows: int, columns: int) -> float:
    """Return the maximum of the evidence of one class, divided by the number of samples.

    Args:
        squares: Squared singular values ``(R,)`` of the features.
        inside: Squared coordinates ``(R,)`` of the indicator in the left singular vectors.
        total: Its squared length.
        rows: ``N``.
        columns: ``D``.
    """
    outside = max(0.0, total - float(inside.sum()))
    bound = LARGEST * rows / total  # an indicator that is fitted exactly has infinite precision
    alpha, beta = 1.0, 1.0
    for _ in range(ITERATIONS):
        ratio = alpha / beta
        gamma = float((squares / (squares + ratio)).sum())
        length = float((squares * inside / (squares + ratio) ** 2).sum())
        residual = float((inside * (ratio / (squares + ratio)) ** 2).sum()) + outside
        beta = min((rows - gamma) / residual, bound) if residual > 0 else bound
        alpha = min(gamma / length, LARGEST * beta) if length > 0 else LARGEST * beta
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
    ratio = alpha / beta
    length = float((squares * inside / (squares + ratio) ** 2).sum())
    residual = float((inside * (ratio / (squares + ratio)) ** 2).sum()) + outside
    rank = len(squares)
    log_determinant = float(np.log(alpha + beta * squares).sum()) + (columns - rank) * math.log(
        alpha
    )
    evidence = columns * math.log(alpha) + rows * math.log(beta / (2 * math.pi)) - log_determinant
    return (evidence - beta * residual - alpha * length) / 2 / rows


def h_score(features: Array, labels: Array) -> float:
    r"""Return the regularized H-score: variance between the classes relative to all, at most K - 1.

    Bao et al. (2019): An Information-Theoretic Approach to Transferability in Task Transfer
    Learning. ICIP: :math:`\mathrm{tr}(\Sigma^{-1} \Sigma_b)` with the covariance of the features
    and that of the class means. With few samples, the first is singular; Ibrahim, Ponomareva,
    Mazumder (2022): Newer is Not Always Better: Rethinking Transferability Metrics, Their
    Peculiarities, Stability and Performance (ECML PKDD), shrink it with the weight :math:`a` of
    Ledoit and Wolf (2004): :math:`\mathrm{tr}(((1 - a) \Sigma + a s I)^{-1} (1 - a) \Sigma_b)`,
    where :math:`s` is the mean variance. The covariances divide by the number of samples.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.

    >>> x, y = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0, 0, 1, 1])
    >>> round(h_score(x, y), 6)  # one feature, which is the class: no shrinkage is needed
    1.0
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    f = np.asarray(features, np.float64)
    f = f - f.mean(axis=0)
    rows, columns = f.shape
    variance = float((f**2).mean())
    if variance == 0:
        return 0.0
    weight = float(ledoit_wolf_shrinkage(f, assume_centered=True))
    classes, codes = np.unique(labels, return_inverse=True)
    members = np.eye(len(classes))[codes]
    means = (members.T @ f) / members.sum(axis=0)[:, None]
    means *= np.sqrt(members.mean(axis=0))[:, None]
    shrunk = (1 - weight) * (f.T @ f) / rows
    # A constant feature, or copies of one, without shrinkage.
    shrunk[np.diag_indices(columns)] += max(weight, SMALLEST**2) * variance
    return float((1 - weight) * (means.T * cho_solve(cho_factor(shrunk), means.T)).sum())


def leep(logits: Array, labels: Array) -> float:
    r"""Return the log expected empirical prediction (LEEP), in nats, at most 0.

    Nguyen, Hassner, Seeger, Archambeau (2020): LEEP: A New Measure to Evaluate Transferability of
    Learned Representations. ICML. With :math:`p_i(z)`, the probability that the network gives its
    own class :math:`z`, and :math:`P(y \mid z)` from the average of these over samples of class
    :math:`y`: :math:`\frac1N \sum_i \log \sum_z P(y_i \mid z) p_i(z)`.

    Args:
        logits: ``(N, Z)``.
        labels: ``(N,)``.

    >>> same = leep(np.zeros((4, 3)), np.array([0, 0, 1, 1]))  # says nothing about the class
    >>> round(same, 3)  # minus log 2
    -0.693
    """
    p = softmax(np.asarray(logits, np.float64), axis=1)
    classes, codes = np.unique(labels, return_inverse=True)
    joint = np.eye(len(classes))[codes].T @ p
    conditional = joint / np.maximum(joint.sum(axis=0), np.finfo(float).tiny)
    return float(np.log((conditional[codes] * p).sum(axis=1)).mean())


def nce(logits: Array, labels: Array) -> float:
    r"""Return the negative conditional entropy (NCE), in nats, at most 0.

    Tran, Nguyen, Hassner (2019): Transferability and Hardness of Supervised Classification Tasks.
    ICCV. :math:`-H(Y \mid Z)`, where :math:`Z` is the class that the network predicts.

    Args:
        logits: ``(N, Z)``.
        labels: ``(N,)``.

    >>> z = np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    >>> nce(z, np.array([0, 0, 1])) == 0  # the prediction determines the class
    True
    """
    _, predicted = np.unique(np.argmax(logits, axis=1), return_inverse=True)
    _, codes = np.unique(labels, return_inverse=True)
    joint = np.zeros((predicted.max() + 1, codes.max() + 1))
    np.add.at(joint, (predicted, codes), 1 / len(codes))
    return float(entr(joint.sum(axis=1)).sum() - entr(joint).sum())


@dataclass(frozen=True)
class Transferability:
    """A score by which pretrained networks are ranked.

    Attributes:
        title: Heading of its column.
        function: Computes it.
        needs_logits: Whether it needs the classifier that the network was trained with.
    """

    title: str
    function: Callable[[Sample], float]
    needs_logits: bool = False


def _logits(sample: Sample) -> Array:
    assert sample.logits is not None
    return sample.logits


#: The scores by name.
SCORES = {
    "logme": Transferability("LogME", lambda one: log_me(one.features, one.labels)),
    "h_score": Transferability("H-score", lambda one: h_score(one.features, one.labels)),
    "leep": Transferability("LEEP", lambda one: leep(_logits(one), one.labels), True),
    "nce": Transferability("NCE", lambda one: nce(_logits(one), one.labels), True),
}
