"""M3SDA against the moments in numpy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from methods import PENALTY, arrays, built, context, views
from tl_lightning.methods.m3sda import M3SDA


def test_value() -> None:
    found = views(7, 5)
    domain = found["source"].domain = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    a, expected = arrays(found), 0.0
    for order in (1, 2):
        goal = (a["ft"] ** order).mean(0)
        means = [(a["fs"][domain.numpy() == d] ** order).mean(0) for d in range(3)]
        expected += np.mean([np.linalg.norm(mean - goal) for mean in means])
        expected += np.mean([np.linalg.norm(x - y) for x, y in combinations(means, 2)])
    value = built(M3SDA, **PENALTY, moments=2)(found, context())["m3sda"]
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert found["target"].features.grad.abs().sum() > 0


def test_equal_domains_have_no_distance_and_a_finite_gradient() -> None:
    found = views(4, 2)
    source, target = found["source"], found["target"]
    source.features = target.features.repeat(2, 1)
    source.domain = torch.tensor([0, 0, 1, 1])
    value = built(M3SDA, **PENALTY, moments=2)(found, context())["m3sda"]
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    value.backward()
    assert torch.isfinite(target.features.grad).all()


def test_a_batch_of_one_source() -> None:
    found = views(4, 4)
    found["source"].domain = torch.ones(4, dtype=torch.int64)
    assert built(M3SDA, **PENALTY, moments=1)(found, context())["m3sda"].item() > 0
