"""AFN: value and gradient of the norm gap."""

from __future__ import annotations

import pytest
import torch

from methods import PENALTY, built, context, gradients, views
from tl_lightning.methods.afn import AFN, norm_gap


def test_value_is_the_squared_step_of_each_domain() -> None:
    result = built(AFN, step=0.7, **PENALTY)(views(), context())["afn"]
    assert result.item() == pytest.approx(2 * 0.7**2, rel=1e-4)


def test_gradient_has_the_same_norm_for_every_sample() -> None:
    """d/df mean (c + step - |f|)^2 = -2 step / B * f / |f|, at |f| = c."""
    given = views()
    terms = built(AFN, step=0.7, **PENALTY)(given, context())
    parts = [given[role].features for role in ("source", "target")]
    for part, gradient in zip(parts, gradients(terms, *parts), strict=True):
        expected = -2 * 0.7 / len(part) * torch.nn.functional.normalize(part, dim=1)
        assert torch.allclose(gradient, expected, atol=1e-5)


def test_gradient_is_proportional_to_the_step() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    one, two = (torch.autograd.grad(norm_gap(x, step), x)[0] for step in (1.0, 2.0))
    assert torch.allclose(two, 2 * one, atol=1e-6)
