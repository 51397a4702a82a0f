"""Calibration error, temperatures and thresholds on samples with known probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from tl_lightning.reliability.calibration import (
    aurc,
    calibration_error,
    confidences,
    matched_temperature,
    reliability_bins,
    risk_coverage,
    threshold_for,
    weighted_temperature,
)
from tl_lightning.utils.probabilities import temperature


def drawn(rows: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels that are drawn from ``softmax(logits / scale)``."""
    rng = np.random.default_rng(seed)
    calibrated = rng.normal(size=(rows, 4)) * 2
    p = softmax(calibrated, axis=1).cumsum(axis=1)
    labels = (rng.random((rows, 1)) > p).sum(axis=1)
    return calibrated * scale, labels


@pytest.mark.parametrize("equal_mass", [True, False])
def test_error_vanishes_at_the_right_temperature_only(equal_mass) -> None:
    logits, labels = drawn(40_000, 3.0)
    correct = logits.argmax(1) == labels
    errors = [
        calibration_error(confidences(logits, scale), correct, equal_mass=equal_mass)
        for scale in (1.0, 3.0, 9.0)
    ]
    assert errors[1] < 0.01 < 0.1 < min(errors[0], errors[2])
    assert temperature(logits, labels) == pytest.approx(3.0, rel=0.03)


def test_bins_of_equal_mass_are_equally_large_and_others_equally_wide() -> None:
    confidence = np.random.default_rng(0).beta(5, 1, 1000)
    correct = np.ones(1000, dtype=bool)
    assert set(reliability_bins(confidence, correct, 10).count) == {100}
    wide = reliability_bins(confidence, correct, 10, equal_mass=False)
    assert np.array_equal(wide.count, np.histogram(confidence, np.linspace(0.2, 1, 9))[0])
    assert len(reliability_bins(confidence[:25], correct[:25]).count) == 2  # ten samples each


def test_matched_temperature_gives_the_wished_mean_confidence() -> None:
    logits, _ = drawn(2000, 1.0)
    for accuracy in (0.35, 0.6, 0.95):
        scale = matched_temperature(logits, accuracy)
        assert confidences(logits, scale).mean() == pytest.approx(accuracy, abs=1e-3)
    assert matched_temperature(logits, 0.0) == pytest.approx(50, rel=0.01)  # below one in four


def test_equal_weights_give_the_temperature_without_weights() -> None:
    logits, labels = drawn(5000, 2.0)
    weighted = weighted_temperature(logits, labels, np.full(5000, 7.0))
    assert weighted == pytest.approx(temperature(logits, labels), rel=0.01)


def test_risk_falls_with_coverage_only_if_confidence_ranks_the_errors() -> None:
    logits, labels = drawn(4000, 1.0)
    correct = logits.argmax(1) == labels
    ranked, shuffled = (
        aurc(values, correct)
        for values in (confidences(logits), np.random.default_rng(1).random(4000))
    )
    assert ranked < 0.6 * shuffled
    assert shuffled == pytest.approx(1 - correct.mean(), abs=0.03)
    coverage, risk = risk_coverage(confidences(logits), correct)
    assert (coverage[-1], risk[-1]) == (1.0, pytest.approx(1 - correct.mean()))


def test_threshold_holds_its_precision_on_new_samples() -> None:
    """In at most 5 % of the draws the precision is below; without the bound in half of them."""
    fresh, truth = drawn(100_000, 1.0, seed=99)
    right, confidence = fresh.argmax(1) == truth, confidences(fresh)
    held = []
    for seed in range(60):
        logits, labels = drawn(1000, 1.0, seed)
        found = threshold_for(confidences(logits), logits.argmax(1) == labels, 0.85)
        if found is not None:
            held.append(right[confidence >= found].mean() >= 0.85)
    assert len(held) > 50
    assert held.count(False) <= 3


def test_no_threshold_where_no_precision_can_be_assured() -> None:
    confidence = np.linspace(0.5, 1, 100)
    assert threshold_for(confidence, np.zeros(100, dtype=bool), 0.5) is None
    assert threshold_for(confidence[:5], np.ones(5, dtype=bool), 0.95) is None
    assert threshold_for(confidence[:0], np.ones(0, dtype=bool), 0.5) is None
    # Equal confidences are kept or left out together.
    assert threshold_for(np.full(1000, 0.7), np.arange(1000) < 900, 0.95) is None
    assert threshold_for(np.full(1000, 0.7), np.arange(1000) < 900, 0.85) == 0.7
