"""CORAL against numpy's covariance."""

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
    found = built(CORAL, **PENALTY)(given, context())["coral"]
    assert found.item() == pytest.approx((gap**2).sum() / (4 * D * D), rel=1e-4)


def test_rounded_views_are_computed_with_exactly() -> None:
    """In a run with bfloat16 features come rounded; nothing is rounded again on the way."""
    given = views()
    for view in given.values():
        view.features = view.features.detach().bfloat16()
    method = built(CORAL, **PENALTY)
    with torch.autocast("cpu", torch.bfloat16):
        found = method(given, context())["coral"]
    for view in given.values():
        view.features = view.features.float()
    assert found.dtype == torch.float32
    assert torch.equal(found, method(given, context())["coral"])


def test_a_shift_of_the_mean_is_not_seen_and_a_stretch_is() -> None:
    given = views(8, 8)
    given["target"].features = given["source"].features + 5
    method = built(CORAL, **PENALTY)
    assert method(given, context())["coral"].item() == pytest.approx(0.0, abs=1e-8)
    given["target"].features = 2 * given["source"].features
    assert method(given, context())["coral"].item() > 1e-3


def test_gradients_reach_both_domains_and_lower_it() -> None:
    given = views()
    method = built(CORAL, **PENALTY)
    before = method(given, context())
    parts = [given[role].features for role in ("source", "target")]
    pulls = gradients(before, *parts)
    for role, part, gradient in zip(given, parts, pulls, strict=True):
        given[role].features = part - 0.5 * gradient
    assert method(given, context())["coral"] < before["coral"]
