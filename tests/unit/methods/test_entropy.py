"""Entropy minimisation against the entropy in scipy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy

from methods import PENALTY, arrays, built, context, gradients, views
from tl_lightning.methods.entropy import Entropy


def test_value() -> None:
    given = views()
    result = built(Entropy, **PENALTY)(given, context())["entropy"]
    assert result.item() == pytest.approx(entropy(arrays(given)["pt"], axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("ramp", "factor"), [("none", 1.0), ("linear", 0.5), ("sigmoid", 2 / (1 + math.exp(-5)) - 1)]
)
def test_the_weight_follows_the_ramp(ramp: str, factor: float) -> None:
    given = views()
    whole = built(Entropy, **PENALTY)(given, context(0.5))["entropy"].item()
    result = built(Entropy, **{**PENALTY, "weight": 3.0, "ramp": ramp})(given, context(0.5))
    assert result["entropy"].item() == pytest.approx(3 * factor * whole, rel=1e-5)


def test_only_target_predictions_have_a_gradient() -> None:
    given = views()
    terms = built(Entropy, **PENALTY)(given, context())
    of_source, of_target = gradients(terms, given["source"].logits, given["target"].logits)
    assert of_source is None
    updated = given["target"].logits - of_target
    assert torch.special.entr(updated.softmax(1)).sum(1).mean() < terms["entropy"]


def test_gradient_is_finite_for_certain_predictions() -> None:
    given = views()
    given["target"].logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    terms = built(Entropy, **PENALTY)(given, context())
    assert torch.isfinite(gradients(terms, given["target"].logits)[0]).all()
