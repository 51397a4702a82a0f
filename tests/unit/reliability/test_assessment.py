"""What is said of predictions without labels, also where little or nothing can be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tl_lightning.errors import ConfigError
from tl_lightning.reliability.assessment import (
    NOT_STORED,
    Record,
    assess,
    expected_accuracy,
    finite_temperature,
)
from tl_lightning.reliability.calibration import confidences

CLASSES = 4


def outputs(rows: int, strength: float, seed: int, classes: int = CLASSES):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    return rng.normal(size=(rows, CLASSES)) + strength * np.eye(CLASSES)[labels], labels


def record(classes: int = CLASSES, **changed) -> Record:
    logits, labels = outputs(400, 3.0, 0, classes)
    features = np.random.default_rng(1).normal(size=(50, 6))
    given = {
        "logits": logits, "labels": labels, "features": features,
        "temperature": finite_temperature(logits, labels),
    }  # fmt: skip
    return Record(**(given | changed))


def lines(found, samples: str = "these images") -> str:
    return "\n".join(expected_accuracy(found, samples))


def test_shift_lowers_the_estimate_and_raises_the_temperature() -> None:
    near, far = (assess(record(), outputs(1000, strength, 2)[0]) for strength in (3.0, 1.0))
    assert near.estimate.value > far.estimate.value + 0.2
    assert near.temperature < far.temperature
    logits = outputs(1000, 1.0, 2)[0]
    assert confidences(logits, far.temperature).mean() == pytest.approx(
        far.estimate.value, abs=0.01
    )
    value, low, high = (
        round(100 * x) for x in (far.estimate.value, far.estimate.low, far.estimate.high)
    )
    text = f"{value} % ({low} to {high} %), estimated without labels"
    assert lines(far).startswith(f"expected accuracy on these images: {text}")


def test_temperature_is_not_below_that_of_the_source() -> None:
    found = assess(record(), outputs(1000, 6.0, 2)[0])
    assert found.temperature >= record().temperature


def test_few_images_have_a_warning_and_the_temperature_of_the_run() -> None:
    few = outputs(5, 3.0, 2)[0]
    for given, reuse, expected in (
        (record(target_temperature=2.5), True, 2.5),
        (record(target_temperature=2.5), False, record().temperature),
        (record(), True, record().temperature),
    ):
        found = assess(given, few, reuse)
        assert found.temperature == expected
        assert "warning: There are only 5 target samples." in lines(found)


def test_missing_class_and_a_single_predicted_class_have_warnings() -> None:
    found = assess(record(classes=3), outputs(200, 3.0, 2)[0])
    assert "1 of 4 classes have no source validation sample" in lines(found)
    one = np.tile([5.0, 0, 0, 0], (200, 1))
    text = lines(assess(record(), one))
    assert "All target samples are predicted as one class." in text
    assert assess(record(), one).mix.warning in text


def test_predictions_that_are_not_finite() -> None:
    logits = outputs(200, 3.0, 2)[0]
    logits[:20] = np.nan
    found = assess(record(), logits)
    assert "20 of 200 target predictions are not finite and count as wrong." in lines(found)
    assert np.isfinite(found.temperature)
    diverged = assess(record(), np.full((200, CLASSES), np.nan))
    assert "not available: none of the 200 target predictions is finite" in lines(diverged)
    nothing = record(logits=np.full((400, CLASSES), np.nan), temperature=float("nan"))
    found = assess(nothing, outputs(200, 3.0, 2)[0])
    assert (found.temperature, found.calibrated) == (1.0, "")
    assert "none of the 400 source validation predictions is finite" in lines(found)
    with pytest.raises(ConfigError, match=r"no confidence .* of the 0 source validation samples"):
        nothing.threshold(0.9)


def test_checkpoint_without_outputs() -> None:
    assert Record.of({}) is None
    found = assess(None, outputs(200, 3.0, 2)[0])
    assert (found.estimate, found.temperature, found.calibrated) == (None, 1.0, "")
    assert lines(found, "the target") == (
        f"expected accuracy on the target: not available: {NOT_STORED}"
    )


def test_record_of_tensors_equals_that_of_arrays() -> None:
    given = record()
    tensors = {name: torch.tensor(getattr(given, name)) for name in ("logits", "features")}
    stored = {**tensors, "labels": torch.tensor(given.labels), "temperature": 2.0}
    found = Record.of(stored)
    assert found is not None
    assert np.array_equal(found.logits, given.logits)
    assert (found.temperature, found.target_temperature) == (2.0, None)


def test_threshold_is_a_probability_after_calibration() -> None:
    given = record()
    threshold = given.threshold(0.95)
    scaled = record(logits=given.logits * 5, temperature=given.temperature * 5)
    assert scaled.threshold(0.95) == pytest.approx(threshold, rel=1e-3)
    kept = confidences(given.logits, given.temperature) >= threshold
    assert 0.2 < kept.mean() < 1
    assert (given.logits.argmax(1) == given.labels)[kept].mean() > 0.95


@pytest.mark.parametrize("precision", [0.0, 1.0, 95.0, float("nan")])
def test_precision_is_a_fraction(precision) -> None:
    with pytest.raises(ConfigError, match=r"is not a fraction between 0 and 1; set precision=0.95"):
        record().threshold(precision)


def test_precision_that_cannot_be_assured() -> None:
    with pytest.raises(
        ConfigError,
        match=r"precision=0.999 cannot be assured: from no confidence .* of the 400 source",
    ):
        record().threshold(0.999)


def test_novelty_of_rows_that_are_not_finite_is_the_highest() -> None:
    given = record()
    features = np.concatenate([given.features, np.full((1, 6), np.nan)])
    shares = given.novelty(features)
    assert shares[-1] == 1
    assert shares[:-1].mean() < 0.6


def test_an_estimate_of_finite_predictions_calibrates_them() -> None:
    """Rows that are not finite count as wrong in the estimate, but have no confidence."""
    logits = outputs(400, 3.0, 2)[0]
    whole = assess(record(), logits)
    partly = assess(record(), np.concatenate([logits, np.full((200, CLASSES), np.nan)]))
    assert partly.temperature == pytest.approx(whole.temperature)
    assert partly.estimate.value == pytest.approx(whole.estimate.value * 2 / 3)


def test_models_trained_on_the_target_have_a_wider_interval() -> None:
    logits = outputs(400, 3.0, 2)[0]
    plain, adapted = (assess(replace(record(), adapted=a), logits).estimate for a in (False, True))
    assert adapted.high - adapted.low > plain.high - plain.low
    assert any("was trained on target samples" in text for text in adapted.warnings)
