"""MCC against the formulas of the paper in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import PENALTY, K, M, arrays, built, context, entropy, gradients, softmax, views
from tl_lightning.methods.mcc import MCC, class_confusion


def reference(z, temperature) -> float:
    p = softmax(z / temperature)
    w = 1 + np.exp(-entropy(p))
    w = M * w / w.sum()
    confusion = np.zeros((K, K))
    for i in range(M):
        confusion += w[i] * np.outer(p[i], p[i])
    confusion /= confusion.sum(1, keepdims=True)
    return (confusion.sum() - np.trace(confusion)) / K


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value(temperature: float) -> None:
    given = views(scale=3.0)
    result = built(MCC, temperature=temperature, **PENALTY)(given, context())["mcc"]
    assert result.item() == pytest.approx(reference(arrays(given)["zt"], temperature), rel=1e-5)


def test_certain_predictions_have_no_confusion() -> None:
    certain = 100 * torch.eye(3)
    assert class_confusion(certain, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    assert class_confusion(torch.zeros(5, 3), 1.0).item() == pytest.approx(2 / 3)


def test_a_class_with_zero_probability_has_no_confusion() -> None:
    z = torch.tensor([[1000.0, 0.0, -1000.0]]).repeat(4, 1).requires_grad_()
    result = class_confusion(z, 2.5)
    assert result.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(torch.autograd.grad(result, z)[0]).all()


def test_certainty_has_no_gradient() -> None:
    given = views()
    z = given["target"].logits
    result = gradients(built(MCC, temperature=1.0, **PENALTY)(given, context()), z)[0]
    p = z.softmax(1)
    w = torch.tensor(1 + np.exp(-entropy(arrays(given)["pt"])), dtype=torch.float32)
    confusion = p.T @ (p * (w / w.mean())[:, None])
    confusion = confusion / confusion.sum(1, keepdim=True)
    expected = torch.autograd.grad((confusion.sum() - confusion.trace()) / K, z)[0]
    assert torch.allclose(result, expected, atol=1e-6)
