"""Class frequencies of the target: exact under pure label shift, and what cannot be known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from tl_lightning.reliability.label_shift import (
    bbse,
    believed_absent,
    class_mix,
    explained,
    mlls,
    rlls,
)

RNG = np.random.default_rng(0)


def outputs(frequencies, n: int = 5000, signal: float = 1.5):
    labels = RNG.choice(len(frequencies), n, p=frequencies)
    return RNG.normal(size=(n, len(frequencies))) + signal * np.eye(len(frequencies))[
        labels
    ], labels


def test_a_shift_of_the_labels_alone_is_found() -> None:
    """Counting predictions would be off by more than a tenth: the model makes many errors."""
    source, labels = outputs([0.25] * 4)
    frequencies = [0.7, 0.1, 0.1, 0.1]
    target, _ = outputs(frequencies)
    mix = class_mix(source, labels, target)
    assert mix.target == pytest.approx(frequencies, abs=0.04)
    assert mix.source == pytest.approx([0.25] * 4, abs=0.03)
    assert mix.distance == pytest.approx(0.45, abs=0.04)
    assert mix.warning is not None
    assert mix.warning.startswith("The class frequencies of source and target seem to differ by 4")


def test_the_same_classes_give_no_warning() -> None:
    source, labels = outputs([0.5, 0.3, 0.2])
    mix = class_mix(source, labels, outputs([0.5, 0.3, 0.2])[0])
    assert mix.distance < 0.05
    assert mix.warning is None


def test_a_class_without_source_samples_has_no_fraction() -> None:
    source, labels = outputs([0.5, 0.5, 0.0])
    mix = class_mix(source, labels, outputs([0.4, 0.4, 0.2])[0])
    assert mix.target[2] == 0
    assert mix.target.sum() == pytest.approx(1)


def test_a_class_that_the_source_never_predicts_is_counted() -> None:
    source, labels = np.tile([1.0, 0.0], (20, 1)), np.repeat([0, 1], 10)
    mix = bbse(source, labels, np.tile([0.0, 1.0], (20, 1)))
    assert mix.tolist() == [0.0, 1.0]


def test_five_samples_give_no_warning() -> None:
    source, labels = outputs([0.1] * 10, 300)
    assert class_mix(source, labels, 5 * np.eye(10)[[0, 1, 2, 3, 4]]).warning is None


def test_three_methods_agree_on_many_samples() -> None:
    frequencies = [0.6, 0.2, 0.15, 0.05]
    (source, labels), (target, _) = outputs([0.25] * 4, 20000), outputs(frequencies, 20000)
    one_hot = np.eye(4)
    predicted = one_hot[source.argmax(1)], labels, one_hot[target.argmax(1)]
    posterior = softmax(1.5 * target, axis=1)  # of the classes' normal densities
    assert bbse(*predicted) == pytest.approx(frequencies, abs=0.02)
    assert rlls(*predicted) == pytest.approx(frequencies, abs=0.03)
    assert mlls(labels, posterior) == pytest.approx(frequencies, abs=0.02)


def test_few_samples_are_drawn_towards_the_source() -> None:
    source, labels = outputs([0.25] * 4, 200)
    target = np.eye(4)[[0, 0, 1, 2, 3]]
    predicted = np.eye(4)[source.argmax(1)], labels, target
    near = [np.abs(method(*predicted) - 0.25).sum() for method in (rlls, bbse)]
    assert near[0] < near[1]


def test_mlls_without_a_class_in_the_source() -> None:
    mix = mlls(np.array([0, 0, 1]), np.array([[0.5, 0.1, 0.4], [0.0, 0.0, 1.0]]))
    assert mix[2] == 0
    assert mix.sum() == pytest.approx(1)
    assert mix[0] > mix[1]


def test_a_class_that_resembles_another_is_believed_absent() -> None:
    """Target samples of class 0 look more like class 1, which is absent, than those of the source.

    The confusion matrix of the source then leaves some samples of class 1.
    """
    labels = np.repeat([0, 1, 2], 100)
    source = np.where(np.eye(3)[labels] > 0, 0.96, 0.02)
    target = np.repeat([[0.74, 0.24, 0.02], [0.02, 0.02, 0.96]], 90, axis=0)
    mix = class_mix(np.log(source), labels, np.log(target))
    assert believed_absent(mix.source, mix.likely) == [1]
    assert believed_absent(mix.source, mix.target) == []


def test_proportions_explain_a_shift_of_labels_and_no_other() -> None:
    source, labels = outputs([0.25] * 4, 2000)
    mix = np.array([0.7, 0.1, 0.1, 0.1])
    by_labels, _ = outputs(mix, 2000)
    by_looks = outputs([0.25] * 4, 2000, 0.3)[0]  # harder to recognise
    source, by_labels, by_looks = (softmax(one, axis=1) for one in (source, by_labels, by_looks))
    assert explained(source, labels, by_labels, mix) > 0.9
    assert explained(source, labels, by_labels, np.full(4, 0.25)) < 0.1
    estimated = rlls(source, labels, by_looks)
    assert explained(source, labels, by_looks, estimated) < 0.3


def test_classes_without_source_samples_explain_nothing() -> None:
    p, labels = np.tile([0.6, 0.3, 0.1], (20, 1)), np.repeat([0, 1], 10)
    assert explained(p, labels, p, np.array([0.0, 0.0, 1.0])) == 0.0
    assert explained(p, labels, p, np.array([0.5, 0.5, 0.0])) == 0.0  # nothing to explain
