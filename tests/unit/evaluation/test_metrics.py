"""Test metrics: every figure against scikit-learn or a direct computation, and their intervals."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from tl_lightning.evaluation.metrics import REPLICATES, Assessment, assess
from tl_lightning.reporting.statistics import wilson


def names(size: int) -> list[str]:
    return [f"class{k}" for k in range(size)]


def drawn(seed: int, counts: list[int], noise: float = 1.5) -> tuple[Any, Any]:
    """Return logits and labels with ``counts[k]`` samples of class k."""
    labels = np.repeat(np.arange(len(counts)), counts)
    random = np.random.default_rng(seed)
    return 2 * np.eye(len(counts))[labels] + noise * random.normal(
        size=(len(labels), len(counts))
    ), labels


def value(found: Assessment, name: str) -> float:
    score = found.scores[name].value
    assert score is not None
    return score


@pytest.mark.parametrize("counts", [[40, 9], [5, 30, 12], [3, 9, 8, 20, 1, 7, 15], [6, 0, 9, 4]])
def test_scores_are_those_of_scikit_learn(counts) -> None:
    logits, labels = drawn(0, counts)
    found, predicted = assess(logits, labels, names(len(counts))), logits.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "kappa": sk.cohen_kappa_score(labels, predicted),
    }
    present = [k for k, count in enumerate(counts) if count]
    recalls = sk.recall_score(labels, predicted, labels=present, average=None)
    expected["balanced_accuracy"] = float(np.mean(recalls))
    for average in ("macro", "weighted"):
        parts = sk.precision_recall_fscore_support(
            labels, predicted, average=average, zero_division=0
        )
        prefix = "weighted_" if average == "weighted" else ""
        own = zip(("precision", "recall", "f1"), parts[:3], strict=True)
        expected |= {f"{prefix}{name}": part for name, part in own}
    if len(counts) > 5:
        expected["top5"] = sk.top_k_accuracy_score(labels, logits, k=5)
    areas = [sk.roc_auc_score(labels == k, softmax(logits, 1)[:, k]) for k in present]
    expected["auroc"] = np.mean(areas)
    if len(present) == len(counts) > 2:
        both = sk.roc_auc_score(labels, softmax(logits, 1), multi_class="ovr", average="macro")
        assert expected["auroc"] == pytest.approx(both)
    assert {n: s.value for n, s in found.scores.items()} == pytest.approx(expected, abs=1e-12)
    matrix = sk.confusion_matrix(labels, predicted, labels=range(len(counts)))
    assert (found.confusion == matrix).all()
    rows = sk.precision_recall_fscore_support(
        labels, predicted, labels=range(len(counts)), zero_division=0
    )
    for k, (one, *row) in enumerate(zip(found.classes, *rows, strict=True)):
        own = (one.precision or 0, one.recall.value or 0, one.f1 or 0, one.support)
        assert own == pytest.approx(tuple(row))
        assert one.predicted == (predicted == k).sum()
        assert (one.auroc is None) == (counts[k] == 0)


def test_the_metrics_are_those_that_the_test_of_a_run_logs() -> None:
    import torch

    from tl_lightning.tasks.metrics import METRICS

    logits, labels = drawn(3, [6, 0, 9, 4, 11])
    found = assess(logits, labels, names(5))
    for name, info in METRICS.items():
        metric = info.build(5)
        metric.update(torch.tensor(logits), torch.tensor(labels))
        own = {"acc": "accuracy"}.get(name, name)
        assert value(found, own) == pytest.approx(float(metric.compute()), abs=1e-6)


def test_top5_counts_equal_scores_in_the_order_of_the_classes() -> None:
    logits = np.zeros((7, 7))
    found = assess(logits, np.arange(7), names(7))
    assert value(found, "top5") == pytest.approx(5 / 7)


def test_auroc_of_confident_models_has_no_ties_from_rounding() -> None:
    """Probabilities that round to 1 would be ties."""
    logits = np.array([[900.0, 0], [800, 0], [850, 0], [700, 0]])
    found = assess(logits, np.array([0, 0, 1, 1]), names(2))
    assert (softmax(logits, 1)[:, 0] == 1).all()
    assert value(found, "auroc") == 0.75


def test_confused_pairs_are_sorted_by_count_then_share() -> None:
    confusion = [[2, 2, 0], [0, 5, 2], [3, 0, 1]]
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(confusion[i][j])]
    true, predicted = np.array(pairs).T
    found = assess(np.eye(3)[predicted], true, ("a", "b", "c"), pairs=2)
    assert [tuple(pair) for pair in found.confused] == [("c", "a", 3, 0.75), ("a", "b", 2, 0.5)]


def test_fractions_have_wilsons_interval() -> None:
    logits, labels = drawn(1, [20, 30, 25, 10, 10, 10])
    found, right = assess(logits, labels, names(6)), logits.argmax(1) == labels
    assert found.scores["accuracy"][1:] == wilson(int(right.sum()), 105)
    assert found.classes[1].recall[1:] == wilson(int(right[20:50].sum()), 30)
    top = sk.top_k_accuracy_score(labels, logits, k=5, normalize=False)
    assert found.scores["top5"][1:] == wilson(int(top), 105)


def test_the_bootstrap_is_that_of_samples_drawn_with_replacement() -> None:
    """The quantiles agree with a plain loop over resampled samples of each class."""
    logits, labels = drawn(2, [60, 90, 40])
    predicted, random = logits.argmax(1), np.random.default_rng(5)
    own = [np.flatnonzero(labels == k) for k in range(3)]
    draws = []
    for _ in range(1500):
        rows = np.concatenate([random.choice(part, len(part)) for part in own])
        table = np.bincount(3 * labels[rows] + predicted[rows], minlength=9).reshape(3, 3)
        chance = table.sum(0) @ table.sum(1) / 190**2
        f1 = (2 * table.diagonal() / (table.sum(0) + table.sum(1))).mean()
        draws.append((f1, (table.trace() / 190 - chance) / (1 - chance)))
    expected = np.quantile(draws, [0.025, 0.975], axis=0).T
    found = assess(logits, labels, names(3))
    for name, ends in zip(("f1", "kappa"), expected, strict=True):
        width = ends[1] - ends[0]
        assert found.scores[name][1:] == pytest.approx(tuple(ends), abs=0.08 * width)
    assert found.scores == assess(logits, labels, names(3)).scores  # seeded


@pytest.mark.parametrize(("counts", "least"), [([12] * 10, 0.9), ([40, 60, 25], 0.9)])
def test_intervals_contain_the_value_of_a_large_test_set(counts, least) -> None:
    whole = assess(*drawn(0, [4000 * c // max(counts) for c in counts]), names(len(counts)))
    hits: dict[str, list[bool]] = {}
    for seed in range(1, 121):
        for name, (_, low, high) in assess(*drawn(seed, counts), names(len(counts))).scores.items():
            assert low is not None
            assert high is not None
            hits.setdefault(name, []).append(low <= value(whole, name) <= high)
    assert min(map(np.mean, hits.values())) >= least


def test_small_classes_have_the_standard_error_of_their_recalls() -> None:
    """Without the correction of Rao and Wu, it would be smaller by a factor of 0.87."""
    logits, labels = drawn(6, [4] * 40)
    found = assess(logits, labels, names(40)).scores["balanced_accuracy"]
    recalls = (logits.argmax(1) == labels).reshape(40, 4).mean(1)
    expected = np.sqrt((recalls * (1 - recalls) / 3).sum()) / 40
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(expected, rel=0.07)


def test_an_interval_of_biased_replicates_is_left_out() -> None:
    """With two samples per class, resampled classes are often never predicted."""
    found = assess(*drawn(7, [2] * 60), names(60)).scores
    assert found["precision"].value is not None
    assert found["precision"].low is None
    assert found["balanced_accuracy"].low is not None
    for value, low, high in found.values():
        assert low is None or low <= value <= high


def test_the_interval_of_the_auroc_is_delongs() -> None:
    """With two classes, the variance is that of the two samples of placements."""
    logits, labels = drawn(4, [25, 40])
    scores = logits[:, 1] - logits[:, 0]
    wins = (scores[labels == 1][:, None] > scores[labels == 0]).astype(float)
    variance = wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 25
    area = wins.mean()
    half = 1.959964 * np.sqrt(variance) / (area * (1 - area))
    ends = 1 / (1 + np.exp(-(np.log(area / (1 - area)) + np.array([-half, half]))))
    assert assess(logits, labels, names(2)).scores["auroc"] == pytest.approx((area, *ends))


def test_labels_of_one_class_leave_auroc_and_kappa_out() -> None:
    logits, _ = drawn(0, [9, 0, 0])
    found = assess(np.eye(3)[[1] * 9], np.full(9, 1), names(3))
    for name in ("kappa", "auroc"):
        assert found.scores[name] == (None, None, None)
    assert found.notes == [
        "all test samples are of the class class1, so that AUROC is not defined and averages over "
        "classes say little"
    ]
    assert value(assess(logits, np.zeros(9, int), names(3)), "kappa") == 0  # some are wrong


def test_missing_and_small_classes_are_named() -> None:
    notes = assess(*drawn(0, [2, 0, 3, 0]), names(4)).notes
    assert notes == [
        "2 of 4 classes have no test samples and are left out of balanced accuracy and AUROC: "
        "class1, class3",
        "2 of 4 classes have fewer than 5 test samples (5 in all), so that the intervals of "
        "averages over classes are too narrow or left out",
    ]
    assert assess(*drawn(0, [5, 5]), names(2)).notes == []


def test_five_samples_without_an_error_have_no_bootstrap_interval() -> None:
    """Every resampled test set is right, which does not mean that the model is never wrong."""
    labels = np.array([0, 1, 2, 0, 1])
    found = assess(5 * np.eye(3)[labels], labels, names(3)).scores
    assert found["accuracy"] == (1.0, *wilson(5, 5))
    for name in ("balanced_accuracy", "f1", "kappa", "auroc"):
        assert found[name] == (1.0, None, None)


@pytest.mark.slow
def test_a_thousand_classes_take_a_few_seconds() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 1000, 4000)
    logits = random.normal(size=(4000, 1000)).astype(np.float32)
    logits[np.arange(4000), labels] += 3
    start = time.process_time()
    found = assess(logits, labels, names(1000))
    assert time.process_time() - start < 20
    assert REPLICATES == 1000
    assert 0.5 < value(found, "top5") < 1
