"""MDD against the paper's objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import N, arrays, built, context, gradients, softmax, views
from tl_lightning.methods.mdd import MDD, disparity

KNOBS = {"max_lambda": 0.5, "gain": 3.0, "margin": 3.0, "width": 8, "depth": 1, "dropout": 0.0,
         "activation": "relu"}  # fmt: skip


def plain(method, given):
    return [method.second(given[role].features) for role in ("source", "target")]


def test_value() -> None:
    given, method = views(), built(MDD, **KNOBS)
    a = arrays(given)
    ps, pt = (softmax(out.detach().double().numpy()) for out in plain(method, given))
    guess_s, guess_t = a["zs"].argmax(1), a["zt"].argmax(1)
    agrees = -np.log(ps[np.arange(N), guess_s]).mean()
    differs = -np.log(1 - pt[np.arange(len(pt)), guess_t]).mean()
    found = method(given, context())["mdd"].item()
    assert found == pytest.approx(3 * agrees + differs, rel=1e-4)


def test_features_are_reversed_and_the_second_classifier_is_not() -> None:
    given, method = views(), built(MDD, **KNOBS)
    lam = 0.5 * (2 / (1 + np.exp(-3.0 * 0.5)) - 1)
    targets = [given["source"].features, given["target"].features, *method.parameters()]
    found = gradients(method(given, context(0.5)), *targets)
    outs = plain(method, given)
    guesses = [given[role].logits.argmax(1) for role in ("source", "target")]
    loss = disparity(outs[0], outs[1], guesses[0], guesses[1], 3.0)
    straight = torch.autograd.grad(loss, targets)
    for place, (a, b) in enumerate(zip(found, straight, strict=True)):
        assert torch.allclose(a, -lam * b if place < 2 else b, atol=1e-6)


def test_the_first_classifier_is_not_trained_by_it() -> None:
    given = views()
    terms = built(MDD, **KNOBS)(given, context())
    assert gradients(terms, given["source"].logits, given["target"].logits) == [None, None]


def test_a_certain_agreement_is_finite() -> None:
    sure = torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    loss = disparity(sure, sure, torch.tensor([0]), torch.tensor([0]), 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(sure.grad).all()
