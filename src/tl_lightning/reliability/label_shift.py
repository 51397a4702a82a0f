"""How frequent the classes are in a domain without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial.distance import cdist

from tl_lightning.reliability.outputs import finite_outputs
from tl_lightning.utils.probabilities import likely_frequencies
from tl_lightning.utils.spread import spread

__all__ = ["ClassMix", "bbse", "believed_absent", "class_mix", "explained", "mlls", "rlls"]

Array = NDArray[Any]

#: Total variation from which a warning is given, in addition to that of small samples.
FAR = 0.25
#: Fraction of its frequency in the source below which a class counts as absent from the target.
ABSENT = 0.1
#: Maximum number of samples of each domain between which distances are computed.
COMPARED = 1000


@dataclass(frozen=True)
class ClassMix:
    """Class frequencies of both domains.

    Attributes:
        source: Fraction of each class among the labelled samples, ``(K,)``.
        target: Estimated fraction of each class in the target, ``(K,)``.
        distance: Total variation of both, in [0, 1].
        warning: A message if the distance is large, otherwise None.
        likely: The fractions ``(K,)`` of the target by :func:`mlls`: of a class that does not occur
            but resembles others, it is lower than in ``target``.
    """

    source: Array
    target: Array
    distance: float
    warning: str | None
    likely: Array


def bbse(source_predicted: Array, source_labels: Array, target_predicted: Array) -> Array:
    """Return the class frequencies of the target from the confusion matrix of the source (BBSE).

    Lipton, Wang, Smola (2018): Detecting and Correcting for Label Shift with Black Box Predictors.
    ICML. arXiv:1802.03916. With ``C[i, j]`` the fraction of the source predicted as i with label j
    and ``mu[i]`` the fraction of the target predicted as i, ``C w = mu`` is solved for the class
    weights ``w >= 0``. It is exact if only the class frequencies differ.

    Args:
        source_predicted: Probabilities or one-hot predictions ``(n, K)``.
        source_labels: ``(n,)``.
        target_predicted: Like ``source_predicted``, ``(m, K)``.

    Returns:
        Fractions ``(K,)``; 0 for a class without source samples.

    >>> confusion = np.repeat(np.array([[0.9, 0.1], [0.2, 0.8]]), 50, axis=0)
    >>> labels = np.repeat([0, 1], 50)
    >>> bbse(confusion, labels, np.repeat(confusion[[0, -1]], [30, 10], axis=0)).round(3).tolist()
    [0.75, 0.25]
    """
    one_hot = np.eye(source_predicted.shape[1])[source_labels]
    joint = source_predicted.T @ one_hot / len(one_hot)
    weights, _ = nnls(joint, target_predicted.mean(axis=0))
    return _fractions(weights, one_hot, target_predicted)


def rlls(source_predicted: Array, source_labels: Array, target_predicted: Array) -> Array:
    """Return the same as :func:`bbse`, drawn towards the classes of the source (RLLS).

    Azizzadenesheli, Liu, Yang, Anandkumar (2019): Regularized Learning for Domain Adaptation under
    Label Shifts. ICLR. arXiv:1903.09734. The weights are ``1 + t`` with the t that minimises
    ``||C (1 + t) - mu||^2 + d^2 ||t||^2``; d is the deviation of mu and C due to the number of
    samples, ``1/sqrt(n) + 1/sqrt(m)``, divided by the number of classes K.

    >>> confusion = np.repeat(np.array([[0.9, 0.1], [0.2, 0.8]]), 50, axis=0)
    >>> labels = np.repeat([0, 1], 50)
    >>> rlls(confusion, labels, np.repeat(confusion[[0, -1]], [30, 10], axis=0)).round(2).tolist()
    [0.72, 0.28]
    """
    rows, classes = source_predicted.shape
    one_hot = np.eye(classes)[source_labels]
    joint = source_predicted.T @ one_hot / rows
    deviation = (1 / np.sqrt(rows) + 1 / np.sqrt(len(target_predicted))) / classes
    # Non-negative least squares in w = 1 + t, with d (w - 1) as further rows.
    matrix = np.concatenate([joint, deviation * np.eye(classes)])
    weights, _ = nnls(
        matrix, np.concatenate([target_predicted.mean(axis=0), np.full(classes, deviation)])
    )
    return _fractions(weights, one_hot, target_predicted)


def mlls(source_labels: Array, target_probabilities: Array) -> Array:
    """Return the class frequencies of the target that are most likely (MLLS, by EM).

    See :func:`.likely_frequencies`.

    Args:
        source_labels: ``(n,)``.
        target_probabilities: ``(m, K)``.

    >>> p = np.repeat(np.array([[0.9, 0.1], [0.1, 0.9]]), [66, 34], axis=0)
    >>> mlls(np.array([0, 1]), p).round(2).tolist()  # 0.7 * 0.9 + 0.3 * 0.1 = 0.66
    [0.7, 0.3]
    """
    counts = np.bincount(source_labels, minlength=target_probabilities.shape[1])
    return likely_frequencies(counts, target_probabilities)


def explained(source: Array, labels: Array, target: Array, mix: Array) -> float:
    """Return how much of the distance between the domains' outputs class frequencies explain.

    If only the class frequencies differ, source samples that are weighted to those of the target
    have the same predictions as the target, and the result is 1. If the classes look different in
    the target, weights hardly bring the predictions closer, and the result is near 0: the estimated
    frequencies then say more about the errors of the model than about the target. The distance is
    the energy distance (Szekely, Rizzo 2013) between the probabilities, estimated without bias.

    Args:
        source: Probabilities ``(n, K)`` of labelled source samples, n > 1.
        labels: ``(n,)``.
        target: Probabilities ``(m, K)``, m > 1.
        mix: Estimated fraction of each class in the target, ``(K,)``.

    Returns:
        A number in [0, 1]; 0 if the domains do not differ.

    >>> p, labels = np.repeat([[0.9, 0.1], [0.2, 0.8]], 50, axis=0), np.repeat([0, 1], 50)
    >>> target = np.repeat(p[[0, -1]], [75, 25], axis=0)
    >>> round(explained(p, labels, target, np.array([0.75, 0.25])), 2)
    1.0
    """
    known, seen = (spread(len(one), min(len(one), COMPARED)) for one in (source, target))
    source, labels, target = source[known], labels[known], target[seen]
    frequencies = np.bincount(labels, minlength=len(mix)) / len(labels)
    weights = (mix / np.maximum(frequencies, 1e-12))[labels]
    if not weights.any():
        return 0.0
    within, across = cdist(source, source), cdist(source, target).mean(axis=1)
    inside = cdist(target, target).sum() / (len(target) * (len(target) - 1))

    def distance(weight: Array) -> float:
        pairs = np.outer(weight, weight)
        np.fill_diagonal(pairs, 0)
        own = (pairs * within).sum() / max(pairs.sum(), 1e-12)
        return float(np.sqrt(max(0.0, 2 * np.average(across, weights=weight) - own - inside)))

    before = distance(np.ones(len(labels)))
    return max(0.0, 1 - distance(weights) / before) if before else 0.0


def class_mix(source_logits: Array, source_labels: Array, target_logits: Array) -> ClassMix:
    """Return the class frequencies of both domains; those of the target by :func:`rlls`.

    A shift of the images themselves changes which classes are predicted too, which no method can
    tell from a shift of the class frequencies without labels: the warning names both.

    Args:
        source_logits: ``(n, K)`` of labelled source samples that the model was not trained on.
        source_labels: ``(n,)``.
        target_logits: ``(m, K)``. Rows that are not finite are left out.

    Raises:
        DataError: If the arrays do not match, or a domain has no finite row.

    >>> logits, labels = np.repeat([[9.0, 0.0], [0.0, 9.0]], 200, axis=0), np.repeat([0, 1], 200)
    >>> mix = class_mix(logits, labels, logits[:300])
    >>> mix.target.round(2).tolist(), round(mix.distance, 2), mix.warning is None
    ([0.66, 0.34], 0.16, True)
    """
    outputs = finite_outputs(source_logits, source_labels, target_logits)
    source, target = outputs.probabilities()
    frequencies = np.bincount(outputs.labels, minlength=source.shape[1]) / len(outputs.labels)
    estimated = rlls(source, outputs.labels, target)
    distance = float(np.abs(frequencies - estimated).sum() / 2)
    warning = None
    if distance >= FAR + _by_chance(frequencies, len(source), len(target)):
        warning = (
            f"The class frequencies of source and target seem to differ by {100 * distance:.0f} % "
            "of the samples: either the classes are distributed differently in the target, or the "
            "model wrongly prefers some of them there."
        )
    return ClassMix(frequencies, estimated, distance, warning, mlls(outputs.labels, target))


def believed_absent(source: Array, target: Array) -> list[int]:
    """Return the classes whose estimated frequency is below a tenth of that in the source.

    Args:
        source: Fraction of each class in the source, ``(K,)``.
        target: Estimated fraction of each class in the target, ``(K,)``, such as
            :attr:`ClassMix.likely`.

    >>> believed_absent(np.array([0.5, 0.3, 0.2]), np.array([0.79, 0.01, 0.2]))
    [1]
    """
    return [int(k) for k in np.flatnonzero((source > 0) & (target < ABSENT * source))]


def _fractions(weights: Array, one_hot: Array, target_predicted: Array) -> Array:
    """Return the class frequencies that follow from the weights of the source's classes."""
    mix = weights * one_hot.mean(axis=0)
    # All weights are 0 if the source never predicts the target's classes.
    fractions: Array = mix / mix.sum() if mix.any() else target_predicted.mean(axis=0)
    return fractions


def _by_chance(frequencies: Array, source_samples: int, target_samples: int) -> float:
    """Return the total variation to expect between two samples from the same frequencies."""
    variance = frequencies * (1 - frequencies) * (1 / source_samples + 1 / target_samples)
    return float(np.sqrt(2 / np.pi * variance).sum() / 2)
