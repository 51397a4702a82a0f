"""Accuracy without labels: exact on samples like the source, sensible on degenerate outputs."""

from __future__ import annotations

from pydoc import locate

import numpy as np
import pytest
import yaml

from conftest import REPO
from tl_lightning.errors import DataError
from tl_lightning.reliability.accuracy import estimate_accuracy, trains_on_target

RNG = np.random.default_rng(0)


def outputs(n: int, signal: float, classes: int = 4, scale: float = 1.0):
    """Return logits and labels of a model that is calibrated at scale 1."""
    labels = RNG.integers(0, classes, n)
    return scale * signal * (
        RNG.normal(size=(n, classes)) + signal * np.eye(classes)[labels]
    ), labels


SOURCE, LABELS = outputs(4000, 2.0)


def test_a_source_without_errors_still_has_a_threshold() -> None:
    labels = np.repeat([0, 1], 20)
    source = 9 * np.eye(2)[labels] + RNG.normal(size=(40, 2))
    estimate = estimate_accuracy(source, labels, np.concatenate([source, RNG.normal(size=(40, 2))]))
    assert 0.3 < estimate.value < 0.8
    assert any("All source validation samples are predicted correctly" in w
               for w in estimate.warnings)  # fmt: skip


@pytest.mark.parametrize(("target", "message"), [
    (outputs(5, 2.0)[0], "There are only 5 target samples."),
    (np.tile([9.0, 0, 0, 0], (60, 1)), "All target samples are predicted as one class."),
    (np.where(np.arange(100)[:, None] < 25, np.nan, outputs(100, 2.0)[0]),
     "25 of 100 target predictions are not finite and count as wrong."),
])  # fmt: skip
def test_what_makes_the_target_unusual_is_said(target, message: str) -> None:
    estimate = estimate_accuracy(SOURCE, LABELS, target)
    assert message in estimate.warnings
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_predictions_that_are_not_finite_count_as_wrong() -> None:
    target = outputs(1000, 2.0)[0]
    half = np.concatenate([target, np.full((1000, 4), np.nan)])
    assert estimate_accuracy(SOURCE, LABELS, half).value == pytest.approx(
        estimate_accuracy(SOURCE, LABELS, target).value / 2
    )


@pytest.mark.parametrize(("source", "labels", "message"), [
    (SOURCE[LABELS != 2], LABELS[LABELS != 2],
     "1 of 4 classes have no source validation sample"),
    (SOURCE[:6], LABELS[:6], "There are only 6 source validation samples."),
    (np.concatenate([SOURCE, np.full((1, 4), np.inf)]), np.append(LABELS, 0),
     "1 of 4001 source validation predictions are not finite and were left out."),
])  # fmt: skip
def test_what_makes_the_source_unusual_is_said(source, labels, message: str) -> None:
    estimate = estimate_accuracy(source, labels, outputs(500, 2.0)[0])
    assert any(warning.startswith(message) for warning in estimate.warnings)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


ADAPTED = "The model was trained on target samples, which makes it confident there"


def test_an_adapted_model_is_compared_with_another() -> None:
    """They agree on half of the samples: the adapted model's confidence does not count."""
    target, _ = outputs(1000, 2.0)
    other = np.where(np.arange(1000)[:, None] < 500, target, -target)
    plain = estimate_accuracy(SOURCE, LABELS, target)
    adapted = estimate_accuracy(SOURCE, LABELS, target, adapted=True)
    compared = estimate_accuracy(SOURCE, LABELS, target, adapted=True, other_logits=other)
    assert compared.value == compared.estimators["other"] == pytest.approx(0.5, abs=0.02)
    assert plain.value == adapted.value > 0.7
    assert plain.low - adapted.low > 0.05
    assert any(warning.startswith(ADAPTED) for warning in adapted.warnings)
    assert compared.warnings == plain.warnings == ()


def test_agreement_above_the_estimate_changes_nothing() -> None:
    target, _ = outputs(1000, 1.0)
    same = estimate_accuracy(SOURCE, LABELS, target, adapted=True, other_logits=target)
    assert same.value == estimate_accuracy(SOURCE, LABELS, target).value < 1


def test_the_other_model_must_predict_the_same_samples() -> None:
    target, _ = outputs(100, 1.0)
    with pytest.raises(DataError, match=r"the same samples and classes, \(100, 4\), got \(99, 4\)"):
        estimate_accuracy(SOURCE, LABELS, target, adapted=True, other_logits=target[1:])


def test_a_model_without_finite_predictions_is_not_compared() -> None:
    target, _ = outputs(100, 1.0)
    with pytest.raises(DataError, match="no finite predictions of the same of the 100 target sam"):
        estimate_accuracy(SOURCE, LABELS, target, other_logits=np.full((100, 4), np.nan))
    half = np.where(np.arange(100)[:, None] < 50, target, np.nan)
    compared = estimate_accuracy(SOURCE, LABELS, target, other_logits=half)
    assert compared.estimators["other"] == 1


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_a_single_sample_of_each_domain(classes: int) -> None:
    estimate = estimate_accuracy(np.ones((1, classes)), np.array([0]), np.ones((1, classes)))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert "There are only 1 target samples." in estimate.warnings


def test_methods_that_add_no_loss_do_not_train_on_the_target() -> None:
    for name in sorted(path.stem for path in (REPO / "conf/method").glob("*.yaml")):
        node = yaml.safe_load((REPO / f"conf/method/{name}.yaml").read_text())
        cls = locate(node["_target_"])
        assert trains_on_target([name]) == cls.adds_loss, name


def test_few_samples_have_a_wider_interval() -> None:
    target, _ = outputs(2000, 1.0)
    widths = []
    for number in (5, 50, 2000):
        # The same samples again and again, so that the estimators agree as much.
        few = np.tile(target[:5], (number // 5, 1))
        estimate = estimate_accuracy(SOURCE, LABELS, few)
        widths.append(estimate.high - estimate.low)
    assert widths[0] > widths[1] + 0.05 > widths[2]


def test_a_usual_pair_gives_no_warning() -> None:
    assert estimate_accuracy(SOURCE, LABELS, outputs(500, 2.0)[0]).warnings == ()


@pytest.mark.parametrize(("source", "labels", "target", "message"), [
    (SOURCE, LABELS, SOURCE[:, :3], r"must be those of one model, got the shapes \(4000, 4\)"),
    (SOURCE, LABELS[:-1], SOURCE, r"must be those of one model, got the shapes \(4000, 4\), \(3"),
    (SOURCE, LABELS, SOURCE[:0], r"at least one sample each, got the shapes .*\(0, 4\)"),
    (SOURCE, LABELS + 1, SOURCE, "class indices from 0 to 3, got int64 from 1 to 4"),
    (SOURCE, LABELS * 1.0, SOURCE, "class indices from 0 to 3, got float64"),
    (SOURCE, LABELS, SOURCE * np.nan, "none of the 4000 target predictions is finite"),
    (SOURCE * np.nan, LABELS, SOURCE, "none of the 4000 source validation predictions is finite"),
])  # fmt: skip
def test_outputs_that_do_not_match_are_rejected(source, labels, target, message: str) -> None:
    with pytest.raises(DataError, match=message):
        estimate_accuracy(source, labels, target)


def test_of_several_models_the_median_agreement_counts() -> None:
    """One that has collapsed does not limit the estimate, nor does one that is almost the same."""
    target, _ = outputs(1000, 2.0)
    rows = np.arange(1000)[:, None]
    others = [np.where(rows < kept, target, -target) for kept in (100, 600, 990)]
    found = estimate_accuracy(SOURCE, LABELS, target, other_logits=others)
    one = estimate_accuracy(SOURCE, LABELS, target, other_logits=others[1])
    assert found == one
    assert found.estimators["other"] == 0.6
