"""V-REx against the variance in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import PENALTY, arrays, built, context, softmax, views
from tl_lightning.methods.vrex import VREx

DOMAIN = torch.tensor([0, 1, 0, 2, 1])


def test_value_and_annealing() -> None:
    found = views()
    found["source"].domain = DOMAIN
    a = arrays(found)
    each = -np.log(softmax(a["zs"])[np.arange(5), a["y"]])
    expected = np.var([each[DOMAIN.numpy() == d].mean() for d in range(3)])
    method = built(VREx, **{**PENALTY, "weight": 10.0, "anneal": 0.1})
    assert method(found, context(1.0))["vrex"].item() == pytest.approx(10 * expected, rel=1e-4)
    assert method(found, context(0.05))["vrex"].item() == pytest.approx(expected, rel=1e-4)
    small = built(VREx, **{**PENALTY, "weight": 0.5, "anneal": 0.1})
    assert small(found, context(0.05))["vrex"].item() == pytest.approx(0.5 * expected, rel=1e-4)


def test_one_domain_has_no_variance() -> None:
    found = views()
    found["source"].domain = torch.zeros(5, dtype=torch.int64)
    assert built(VREx, **PENALTY, anneal=0.0)(found, context())["vrex"].item() == 0.0
