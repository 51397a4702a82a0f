"""Calibrated probabilities, and the class frequencies that they make most likely."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

__all__ = ["likely_frequencies", "temperature"]

Array = NDArray[Any]

#: Maximum number of EM steps, and the change of all fractions that ends them.
ITERATIONS, CONVERGED = 100, 1e-4


def temperature(logits: Array, labels: Array) -> float:
    """Return the temperature at which the predictions of labelled samples are calibrated.

    Guo, Pleiss, Sun, Weinberger (2017): On Calibration of Modern Neural Networks. ICML. It
    minimises the cross-entropy of ``logits / T``, with T in [1/50, 50]. As in Platt scaling, one
    more sample of each outcome is assumed: otherwise T would be 0 without any wrong prediction.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)``.

    >>> z, y = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    >>> round(4.0 / temperature(z, y), 3)  # predicts (3 + 1) / (4 + 2) = 2/3: log 2
    0.693
    """
    logits, rows = np.asarray(logits, dtype=np.float64), np.arange(len(labels))
    wrong = 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        scaled = scipy.special.log_softmax(logits / np.exp(log_temperature), axis=1)
        right, all_classes = scaled[rows, labels], scaled.sum(axis=1)
        others = (all_classes - right) / max(1, logits.shape[1] - 1)
        return -float(((1 - wrong) * right + wrong * others).mean())

    bound = np.log(50.0)
    return float(
        np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x)
    )


def likely_frequencies(counts: Array, probabilities: Array) -> Array:
    """Return the class frequencies ``(K,)`` that make the predictions most likely (MLLS, by EM).

    Saerens, Latinne, Decaestecker (2002): Adjusting the Outputs of a Classifier to New a Priori
    Probabilities. Neural Computation 14. The probabilities must be calibrated (Alexandari, Kundaje,
    Shrikumar 2020, ICML). As in :func:`temperature`, one more sample of the classes of training is
    assumed, so that none of them gets a fraction of 0.

    Args:
        counts: How many samples ``(K,)`` of each class the classifier was trained with.
        probabilities: ``(m, K)``.

    >>> p = np.repeat(np.array([[0.9, 0.1], [0.1, 0.9]]), [66, 34], axis=0)
    >>> likely_frequencies(np.array([1, 1]), p).round(2).tolist()  # 0.7 * 0.9 + 0.3 * 0.1 = 0.66
    [0.7, 0.3]
    """
    prior = np.asarray(counts) / np.sum(counts)
    known = prior > 0
    likelihood = probabilities[:, known] / prior[known]
    # A row whose probability is in unknown classes says nothing of the others.
    likelihood = likelihood + np.finfo(float).tiny
    mix = prior[known]
    for _ in range(ITERATIONS):
        posterior = likelihood * mix
        posterior /= posterior.sum(axis=1, keepdims=True)
        updated = (posterior.sum(axis=0) + prior[known]) / (len(posterior) + 1)
        change = np.abs(updated - mix).sum()
        mix = updated
        if change < CONVERGED:
            break
    fractions = np.zeros(len(prior))
    fractions[known] = mix
    return fractions
