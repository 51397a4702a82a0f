"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import math

import pytest

from tl_lightning.schedules import Constant, Cosine, DannAnnealing, Step, sigmoid_ramp


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_formulas(p: float) -> None:
    assert DannAnnealing(warmup=0, alpha=10, beta=0.75)(p) == pytest.approx((1 + 10 * p) ** -0.75)
    expected = 0.5 * (1 + math.cos(math.pi * p))
    assert Cosine(warmup=0, final=0)(p) == pytest.approx(expected)
    assert sigmoid_ramp(p) == pytest.approx(2 / (1 + math.exp(-10 * p)) - 1)
    assert Constant(warmup=0)(p) == 1


def test_warmup_is_linear() -> None:
    for schedule in (
        Constant(warmup=0.2),
        Cosine(warmup=0.2, final=0.0),
        Step(warmup=0.2, milestones=[0.9], gamma=0.1),
    ):
        assert schedule(0.1) == pytest.approx(0.5)
        assert schedule(0.2) == pytest.approx(1.0)


def test_cosine_ends_at_its_final_value() -> None:
    assert Cosine(warmup=0.1, final=0.05)(1.0) == pytest.approx(0.05)
