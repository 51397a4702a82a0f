"""Estimators of accuracy: right without a shift, and by hand on small examples."""

from __future__ import annotations

import numpy as np
import pytest

from tl_lightning.reliability.estimators import ESTIMATORS, Evidence, agreement, estimates
from tl_lightning.reliability.outputs import finite_outputs

RNG = np.random.default_rng(0)


def outputs(n: int, signal: float, classes: int = 4, frequencies=None):
    """Return logits and labels of a model that is calibrated."""
    labels = RNG.choice(classes, n, p=frequencies)
    features = RNG.normal(size=(n, classes)) + signal * np.eye(classes)[labels]
    return signal * features, labels


SOURCE, LABELS = outputs(4000, 2.0)


def found(target, scale: float = 1.0) -> dict[str, float]:
    return estimates(finite_outputs(scale * SOURCE, LABELS, scale * target))


def accuracy(logits, labels) -> float:
    return float(np.mean(logits.argmax(axis=1) == labels))


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_every_estimator_is_right_without_a_shift(scale: float) -> None:
    """At scale 5 the model is overconfident, which the temperature removes."""
    target, labels = outputs(4000, 2.0)
    truth = accuracy(target, labels)
    assert found(target, scale) == pytest.approx(dict.fromkeys(ESTIMATORS, truth), abs=0.045)


def test_a_harder_target_has_a_lower_estimate() -> None:
    target, labels = outputs(4000, 1.0)
    target = 2 * target  # the model does not know that the signal is weaker
    values, truth = found(target), accuracy(target, labels)
    for name in set(ESTIMATORS) - {"source", "bbse", "mlls"}:
        assert truth - 0.02 < values[name] < values["source"] - 0.05, name


def test_transport_recognises_a_model_that_predicts_one_class() -> None:
    target = np.tile([20.0, 0.0, 0.0, 0.0], (1000, 1))
    values, frequency = found(target), float(np.mean(LABELS == 0))
    assert values["confidence"] == pytest.approx(1.0, abs=1e-3)
    assert values["cot"] == pytest.approx(frequency, abs=0.01)
    assert values["cott"] == pytest.approx(frequency, abs=0.01)


def test_only_the_classes_differ() -> None:
    """Class 0 is easy and frequent in the target; the recalls of the source are those there."""
    hard = np.array([3.0, 1.0, 1.0, 1.0])

    def domain(n: int, frequencies):
        labels = RNG.choice(4, n, p=frequencies)
        return RNG.normal(size=(n, 4)) + hard[labels][:, None] * np.eye(4)[labels], labels

    source, labels = domain(6000, [0.25] * 4)
    target, truth = domain(6000, [0.85, 0.05, 0.05, 0.05])
    estimate = estimates(finite_outputs(source, labels, target))["bbse"]
    assert estimate == pytest.approx(accuracy(target, truth), abs=0.03)
    assert accuracy(target, truth) > accuracy(source, labels) + 0.15


def small() -> Evidence:
    """Return 98 source samples whose 29 least certain are wrong, and the target reversed."""
    confidence = (1 + np.arange(98) / 100) / 2
    source = np.stack([confidence, 1 - confidence], axis=1)
    return Evidence(source, (np.arange(98) < 29).astype(int), source[::-1])


def test_atc_counts_what_is_above_the_threshold_of_the_source() -> None:
    given = small()
    assert given.wrong == pytest.approx(0.3)  # 29 + 1 of 98 + 2
    above = np.mean(given.source[:, 0] > np.quantile(given.source[:, 0], 0.3))
    assert ESTIMATORS["atc"].function(given) == above == pytest.approx(0.7, abs=0.01)
    assert ESTIMATORS["atc_entropy"].function(given) == above


def test_doc_subtracts_the_lost_confidence() -> None:
    given = small()
    less = Evidence(given.source, given.labels, np.full((7, 2), 0.5))
    lost = given.source[:, 0].mean() - 0.5
    assert ESTIMATORS["doc"].function(less) == pytest.approx(69 / 98 - lost)


def test_transport_moves_each_prediction_to_another_label() -> None:
    """Two labels of each class: one of the three predictions of class 0 pays 0.9, not 0.1."""
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    given = Evidence(p, np.array([0, 0, 1, 1]), p)
    assert ESTIMATORS["cot"].function(given) == pytest.approx((0.9 + 0.9 + 0.1 + 0.8) / 4)


@pytest.mark.parametrize("name", ["nuclear", "mano"])
def test_norms_do_not_depend_on_the_number_of_samples(name: str) -> None:
    target = outputs(500, 1.0)[0]
    once, twice = (found(x)[name] for x in (target, np.concatenate([target, target])))
    assert once == pytest.approx(twice, abs=0.01)


def test_agreement_of_two_calibrated_models_is_their_accuracy() -> None:
    """Both draw their class from the true posterior, as in the theorem of Jiang et al."""
    p = RNG.dirichlet([0.5] * 4, size=20000)
    draws = [np.eye(4)[(p.cumsum(1) > RNG.random((len(p), 1))).argmax(1)] for _ in range(3)]
    truth = np.mean(draws[0].argmax(1) == draws[2].argmax(1))
    assert agreement(draws[0], draws[1]) == pytest.approx(truth, abs=0.015)
