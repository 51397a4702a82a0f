"""MDD against the objective of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import N, arrays, built, context, gradients, softmax, views
from tl_lightning.methods.mdd import MDD, disparity
from tl_lightning.types import Context

PARAMS = {"max_lambda": 0.5, "gain": 3.0, "ramp_steps": None, "margin": 3.0, "width": 8,
         "depth": 1, "dropout": 0.0, "activation": "relu"}  # fmt: skip


def plain(method, given):
    return [method.second(given[role].features) for role in ("source", "target")]


def test_value() -> None:
    given, method = views(), built(MDD, **PARAMS)
    a = arrays(given)
    ps, pt = (softmax(out.detach().double().numpy()) for out in plain(method, given))
    pred_s, pred_t = a["zs"].argmax(1), a["zt"].argmax(1)
    agreement = -np.log(ps[np.arange(N), pred_s]).mean()
    disagreement = -np.log(1 - pt[np.arange(len(pt)), pred_t]).mean()
    result = method(given, context())["mdd"].item()
    assert result == pytest.approx(3 * agreement + disagreement, rel=1e-4)


def test_only_features_have_a_reversed_gradient() -> None:
    given, method = views(), built(MDD, **PARAMS)
    lam = 0.5 * (2 / (1 + np.exp(-3.0 * 0.5)) - 1)
    targets = [given["source"].features, given["target"].features, *method.parameters()]
    result = gradients(method(given, context(0.5)), *targets)
    outs = plain(method, given)
    predicted = [given[role].logits.argmax(1) for role in ("source", "target")]
    loss = disparity(outs[0], outs[1], predicted[0], predicted[1], 3.0)
    expected = torch.autograd.grad(loss, targets)
    for index, (a, b) in enumerate(zip(result, expected, strict=True)):
        assert torch.allclose(a, -lam * b if index < 2 else b, atol=1e-6)


def test_ramp_over_a_number_of_steps() -> None:
    method = built(MDD, **{**PARAMS, "ramp_steps": 10})
    expected = 0.5 * (2 / (1 + np.exp(-3.0 * 0.4)) - 1)
    assert method.strength(Context(1.0, 4)) == pytest.approx(expected)


def test_the_first_classifier_has_no_gradient() -> None:
    given = views()
    terms = built(MDD, **PARAMS)(given, context())
    assert gradients(terms, given["source"].logits, given["target"].logits) == [None, None]


def test_loss_and_gradient_are_finite_for_certain_predictions() -> None:
    certain = torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    loss = disparity(certain, certain, torch.tensor([0]), torch.tensor([0]), 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(certain.grad).all()
