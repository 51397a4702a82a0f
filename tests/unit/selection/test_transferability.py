"""Scores of pretrained networks, compared with independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from tl_lightning.selection.transferability import SCORES, Sample, h_score, leep, log_me, nce


def data(rows: int = 40, columns: int = 5, classes: int = 3, noise: float = 1.0):
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % classes
    features = rng.normal(size=(classes, columns))[labels] + noise * rng.normal(
        size=(rows, columns)
    )
    return features, labels


def evidence(features, target) -> float:
    """Return the maximum over the precisions of the marginal likelihood, by its definition."""

    def loss(logs) -> float:
        alpha, beta = np.exp(np.clip(logs, -12, 12))
        covariance = np.eye(len(target)) / beta + features @ features.T / alpha
        return -multivariate_normal(np.zeros(len(target)), covariance).logpdf(target)

    best = min((minimize(loss, start, method="Nelder-Mead", options={"maxiter": 2000})
                for start in ((0, 0), (2, 2), (0, 3))), key=lambda one: one.fun)  # fmt: skip
    return -best.fun / len(target)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 5), (12, 30)])
def test_log_me_is_the_maximum_of_the_marginal_likelihood(shape) -> None:
    features, labels = data(*shape)
    expected = np.mean([evidence(features, (labels == k).astype(float)) for k in range(3)])
    assert log_me(features, labels) == pytest.approx(expected, abs=1e-3)


def test_log_me_is_finite_for_features_that_determine_the_class() -> None:
    labels = np.arange(30) % 3
    assert np.isfinite(log_me(np.eye(3)[labels], labels))
    assert np.isfinite(log_me(np.zeros((30, 4)) + 1.0, labels))


@pytest.mark.parametrize("shape", [(40, 5), (12, 30)])
def test_h_score_is_the_trace_of_the_definition(shape) -> None:
    features, labels = data(*shape)
    centred = features - features.mean(0)
    shrunk, weight = ledoit_wolf(centred, assume_centered=True)
    means = np.stack([centred[labels == k].mean(0) for k in range(3)])[labels]
    between = means.T @ means / len(means)
    expected = np.trace(np.linalg.inv(shrunk) @ ((1 - weight) * between))
    assert h_score(features, labels) == pytest.approx(expected)
    assert weight > 0


def test_h_score_without_noise_is_the_number_of_classes_minus_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 4
    features = rng.normal(size=(4, 3))[labels] + 1e-4 * rng.normal(size=(3000, 3))
    assert h_score(features, labels) == pytest.approx(3, abs=0.02)
    assert h_score(np.ones((8, 2)), np.arange(8) % 2) == 0.0


def test_leep_and_nce_of_a_hand_computed_table() -> None:
    """Class 0 is predicted as z=0 twice and z=1 once, class 1 as z=1 once."""
    z = np.array([0, 0, 1, 1])
    labels = np.array([0, 0, 0, 1])
    certain = np.eye(2)[z] * 1000
    # P(y=0|z=0) = 1, P(y|z=1) = 1/2 each: H(Y|Z) = 1/2 log 2.
    assert nce(certain, labels) == pytest.approx(-np.log(2) / 2)
    # log 1, log 1, log 1/2, log 1/2
    assert leep(certain, labels) == pytest.approx(-np.log(2) / 2)
    # Probabilities (3/4, 1/4) for the first two, (1/4, 3/4) for the others.
    p = np.array([[0.75, 0.25]] * 2 + [[0.25, 0.75]] * 2)
    first = (0.75 * 2 + 0.25) / 2  # P(y=0|z=0): 1.75 of a total of 2
    second = (0.25 * 2 + 0.75) / 2
    terms = [first * 0.75 + second * 0.25] * 2
    terms += [first * 0.25 + second * 0.75, (1 - first) * 0.25 + (1 - second) * 0.75]
    assert leep(np.log(p), labels) == pytest.approx(np.log(terms).mean())


def test_labels_need_not_be_contiguous() -> None:
    features, labels = data()
    logits = np.random.default_rng(1).normal(size=(40, 6))
    for score in SCORES.values():
        plain = score.function(Sample(features, labels, logits))
        assert score.function(Sample(features, labels * 7 + 2, logits)) == pytest.approx(plain)


@pytest.mark.parametrize("name", SCORES)
def test_better_features_have_a_higher_score(name) -> None:
    found = [
        SCORES[name].function(Sample(features, labels, 3 * features))
        for noise in (3.0, 1.0, 0.3)
        for features, labels in [data(300, 5, 3, noise)]
    ]
    assert found == sorted(found)
