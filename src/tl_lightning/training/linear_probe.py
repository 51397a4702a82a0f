"""Linear probe: a logistic regression on the features of a frozen network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tl_lightning.tasks.head import Head

__all__ = ["STRENGTHS", "LinearProbe", "fit_probe"]

Array = NDArray[Any]

#: Inverse strengths of the L2 regularization to choose from, for features of mean norm 1.
STRENGTHS = (1.0, 10.0, 100.0)
#: Maximum number of L-BFGS iterations per strength; those of the smaller one are kept.
ITERATIONS = 500


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear classifier.

    Attributes:
        weight: ``(K, D)``.
        bias: ``(K,)``.
        strength: The chosen inverse strength of the regularization.
    """

    weight: Array
    bias: Array
    strength: float

    def logits(self, features: Array) -> Array:
        """Return the logits ``(N, K)`` of features ``(N, D)``."""
        out: Array = np.asarray(features, np.float64) @ self.weight.T + self.bias
        return out

    def outputs(self, features: Array) -> tuple[Array, Array]:
        """Return the classifier's inputs, which are the features, and the logits."""
        return features, self.logits(features)

    @torch.no_grad()
    def write(self, head: Head) -> None:
        """Copy the weights to a head with a linear classifier."""
        layer: Any = head.classifier[-1]
        layer.weight.copy_(torch.from_numpy(self.weight))
        layer.bias.copy_(torch.from_numpy(self.bias))


def fit_probe(
    features: Array,
    labels: Array,
    val_features: Array,
    val_labels: Array,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """Fit a logistic regression by L-BFGS until it converges.

    The strength of the regularization is chosen by accuracy on the validation samples; of equal
    ones, the strongest. Classes without samples get a bias that is never predicted.

    Args:
        features: ``(N, D)``.
        labels: Class indices ``(N,)``.
        val_features: ``(M, D)`` of the same domain.
        val_labels: ``(M,)``.
        num_classes: ``K``.
        strengths: Inverse strengths to choose from, in ascending order.

    >>> x = np.array([[0.0], [1.0], [3.0], [4.0]])
    >>> probe = fit_probe(x, np.array([0, 0, 1, 1]), x, np.array([0, 0, 1, 1]), num_classes=2)
    >>> probe.logits(np.array([[0.0], [4.0]])).argmax(1)
    array([0, 1])
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scale = float(np.linalg.norm(features, axis=1).mean()) or 1.0
    train, val = (np.asarray(part, np.float32) / scale for part in (features, val_features))
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    best, best_accuracy = None, -1.0
    for strength in strengths:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train, labels)
        accuracy = float(np.mean(model.predict(val) == val_labels)) if len(val) else 0.0
        if accuracy > best_accuracy:
            best_accuracy = accuracy
            best = _as_probe(model, scale, strength, num_classes)
    assert best is not None
    return best


def _as_probe(model: Any, scale: float, strength: float, num_classes: int) -> LinearProbe:
    """Return the probe for unscaled features, with one row per class."""
    coefficients, intercept = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(model.classes_) == 2:  # scikit-learn keeps only the difference of two classes
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    weight, bias = np.zeros((num_classes, coefficients.shape[1])), np.full(num_classes, -1e4)
    weight[model.classes_], bias[model.classes_] = coefficients / scale, intercept
    return LinearProbe(weight, bias, strength)
