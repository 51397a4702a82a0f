"""Linear probe: a logistic regression on the features of a frozen network."""

from __future__ import annotations

import numpy as np
import pytest

from tl_lightning.training.linear_probe import STRENGTHS, fit_probe


def blobs(classes: int, n: int = 60, width: int = 5, seed: int = 0):
    """Return features and labels of overlapping Gaussian classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    means = np.random.default_rng(9).normal(size=(classes, width))
    return means[labels] + 0.7 * rng.normal(size=(n, width)), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_is_the_optimum_of_the_regularized_loss(classes) -> None:
    """Its gradient is zero: mean cross-entropy + |W|^2 / (2 C N), for features of mean norm 1."""
    x, y = blobs(classes)
    probe = fit_probe(x, y, *blobs(classes, seed=1), num_classes=classes)
    scale = np.linalg.norm(x, axis=1).mean()
    logits = probe.logits(x)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    # With two classes, scikit-learn regularizes the difference of the two rows, not both.
    weight = probe.weight * scale * (2 if classes == 2 else 1)
    gradient = (p - np.eye(classes)[y]).T @ (x / scale) + weight / probe.strength
    assert np.abs(gradient).max() < 0.02
    assert abs((p - np.eye(classes)[y]).sum(0)).max() < 0.02  # the bias is not regularized


def test_features_of_another_scale_give_the_same_predictions() -> None:
    x, y = blobs(3)
    val, val_labels = blobs(3, seed=1)
    one = fit_probe(x, y, val, val_labels, num_classes=3)
    other = fit_probe(1000 * x, y, 1000 * val, val_labels, num_classes=3)
    np.testing.assert_allclose(one.logits(val), other.logits(1000 * val), atol=1e-3)


def test_a_class_without_samples_is_never_predicted() -> None:
    x, y = blobs(3)
    probe = fit_probe(x, 2 * y, x, 2 * y, num_classes=6)
    assert set(probe.logits(x).argmax(1)) == {0, 2, 4}


def test_the_regularization_is_chosen_on_validation_samples() -> None:
    x, y = blobs(3)
    chosen = {fit_probe(x, y, *blobs(3, seed=s), num_classes=3).strength for s in range(1, 6)}
    assert chosen <= set(STRENGTHS)
    noise = np.random.default_rng(0).integers(0, 3, len(y))
    assert fit_probe(x, noise, *blobs(3, seed=1), num_classes=3).strength in STRENGTHS
