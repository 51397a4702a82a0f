"""Complement entropy: value, weights and gradient."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from methods import PENALTY, K, arrays, built, context, entropy, gradients, views
from tl_lightning.methods.complement_entropy import ComplementEntropy, complement_entropy


@pytest.mark.parametrize("classes", [None, [2.0, 1.0, 0.0]])
def test_value(classes) -> None:
    given = views()
    weights = np.ones(len(given["source"].labels))
    if classes is not None:
        of_labels = torch.tensor(classes)[given["source"].labels]
        given["source"] = dataclasses.replace(given["source"], weights=of_labels)
        weights = of_labels.double().numpy()
    a = arrays(given)
    rows = np.arange(len(weights))
    right = a["ps"][rows, a["y"]]
    others = np.array([np.delete(p, y) for p, y in zip(a["ps"], a["y"], strict=True)])
    others /= others.sum(1, keepdims=True)
    expected = -np.average(entropy(others) / np.log(K - 1), weights=weights * (1 - right))
    method = built(ComplementEntropy, **PENALTY)
    terms = method({"source": given["source"]}, context())
    assert terms["complemententropy"].item() == pytest.approx(expected, rel=1e-5)
    of_logits, of_target = gradients(terms, given["source"].logits, given["target"].logits)
    assert of_target is None
    # The entropy does not depend on the logit of the right class, nor do the weights' gradients.
    torch.testing.assert_close(of_logits[rows, a["y"]], torch.zeros(len(rows)))
    assert of_logits.any()


def test_equal_wrong_classes_are_the_optimum() -> None:
    logits, labels = torch.tensor([[3.0, 0.5, 0.5, 0.5]]), torch.tensor([0])
    assert complement_entropy(logits, labels).item() == pytest.approx(1.0)
    assert complement_entropy(torch.tensor([[3.0, 9.0, -9.0, -9.0]]), labels).item() < 1e-4


def test_two_classes_have_one_wrong_class() -> None:
    logits = torch.tensor([[3.0, 0.5], [-60.0, 60.0]], requires_grad=True)
    found = complement_entropy(logits, torch.tensor([0, 0]))
    assert found.tolist() == [0.0, 0.0]
    found.sum().backward()
    assert not logits.grad.any()
