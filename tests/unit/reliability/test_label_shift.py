"""Class frequencies of the target: exact under pure label shift, and what cannot be known."""

from __future__ import annotations

import numpy as np
import pytest

from tl_lightning.reliability.label_shift import class_mix

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
    assert mix.warning.startswith("The classes seem to be distributed differently in the target: 4")


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
    source, labels = np.tile([5.0, 0.0], (20, 1)), np.repeat([0, 1], 10)
    mix = class_mix(source, labels, np.tile([0.0, 5.0], (20, 1)))
    assert mix.target.tolist() == [0.0, 1.0]
