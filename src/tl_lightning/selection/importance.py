"""Importance weights of source samples, and risks weighted by them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dev_risk", "ratios", "weighted_risk"]

Array = NDArray[Any]
#: Log odds are clipped to this range, so that weights stay finite.
LARGEST_LOG_ODDS = 30.0


def ratios(source: Array, target: Array) -> Array:
    """Return the density ratio ``p_target / p_source`` at every source row.

    Bickel, Bruckner, Scheffer (2007): Discriminative Learning for Differing Training and Test
    Distributions. ICML. A logistic regression classifies samples by domain; the ratio is its odds
    for the target times ``N_s / N_t``. The papers of :func:`.dev` and :func:`.iwcv` fit it on
    source training features. Here only validation features are available, so two regressions are
    fitted, each on every other source row, and weight the rows that they were not fitted on.

    Args:
        source: ``(N_s, D)``; with fewer than four rows all weights are 1.
        target: ``(N_t, D)``.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 1))
    >>> w = ratios(x, x + 1)
    >>> bool(w[x[:, 0] > 1].mean() > 1 > w[x[:, 0] < 0].mean())  # the target is to the right
    True
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(source) < 4:
        return np.ones(len(source))
    scaler = StandardScaler().fit(np.concatenate([source, target]).astype(np.float64))
    source, target = scaler.transform(source), scaler.transform(target)
    weights = np.empty(len(source))
    halves = np.arange(len(source)) % 2
    for half in (0, 1):
        fitted, held_out = source[halves != half], halves == half
        domains = np.repeat([0, 1], [len(fitted), len(target)])
        regression = LogisticRegression(max_iter=200, C=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(np.concatenate([fitted, target]), domains)
        log_odds = regression.decision_function(source[held_out])
        clipped = np.clip(log_odds, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
        weights[held_out] = np.exp(clipped) * len(fitted) / len(target)
    return weights


def dev_risk(weights: Array, losses: Array) -> float:
    """Return :func:`.dev` of importance weights and losses ``(N,)``."""
    weighted = weights * losses
    var = float(np.var(weights, ddof=1)) if len(weights) > 1 else 0.0
    eta = -float(np.cov(weighted, weights, ddof=1)[0, 1]) / var if var > 0 else 0.0
    return -float(weighted.mean() + eta * weights.mean() - eta)


def weighted_risk(weights: Array, losses: Array) -> float:
    """Return :func:`.iwcv` of importance weights and losses ``(N,)``."""
    return -float(np.mean(weights * losses))
