"""CORAL against the covariance in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import PENALTY, D, arrays, built, context, gradients, views
from tl_lightning.methods.coral import CORAL


def test_value() -> None:
    given = views()
    a = arrays(given)
    gap = np.cov(a["fs"], rowvar=False) - np.cov(a["ft"], rowvar=False)
    result = built(CORAL, **PENALTY)(given, context())["coral"]
    assert result.item() == pytest.approx((gap**2).sum() / (4 * D * D), rel=1e-4)


def test_bfloat16_features_are_computed_in_float32() -> None:
    """With mixed precision, features are bfloat16, but nothing is rounded again."""
    given = views()
    for view in given.values():
        view.features = view.features.detach().bfloat16()
    method = built(CORAL, **PENALTY)
    with torch.autocast("cpu", torch.bfloat16):
        result = method(given, context())["coral"]
    for view in given.values():
        view.features = view.features.float()
    assert result.dtype == torch.float32
    assert torch.equal(result, method(given, context())["coral"])


def test_invariant_to_shift_but_not_to_scale() -> None:
    given = views(8, 8)
    given["target"].features = given["source"].features + 5
    method = built(CORAL, **PENALTY)
    assert method(given, context())["coral"].item() == pytest.approx(0.0, abs=1e-8)
    given["target"].features = 2 * given["source"].features
    assert method(given, context())["coral"].item() > 1e-3


def test_gradient_step_in_both_domains_decreases_the_loss() -> None:
    given = views()
    method = built(CORAL, **PENALTY)
    before = method(given, context())
    parts = [given[role].features for role in ("source", "target")]
    steps = gradients(before, *parts)
    for role, part, gradient in zip(given, parts, steps, strict=True):
        given[role].features = part - 0.5 * gradient
    assert method(given, context())["coral"] < before["coral"]
