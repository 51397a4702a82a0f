"""WDGRL: the critic's step, the features' step, and the slope between."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers import config
from methods import built, context, gradients, views
from tl_lightning.methods.wdgrl import WDGRL, gradient_penalty
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.training import fit as training

KNOBS = {"weight": 0.5, "repeats": 2, "penalty": 7.0, "width": 8, "depth": 1, "activation": "tanh"}


def test_penalty_of_a_plane_is_its_slopes() -> None:
    torch.manual_seed(0)
    plane = nn.Linear(6, 1)
    found = gradient_penalty(plane, torch.randn(5, 6), torch.randn(7, 6), torch.rand(5, 1))
    assert found.item() == pytest.approx((plane.weight.norm().item() - 1) ** 2, rel=1e-4)
    assert torch.autograd.grad(found, plane.weight)[0].abs().sum() > 0


def test_a_flat_critic_has_a_finite_gradient() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.zeros_(critic[2].weight)
    found = gradient_penalty(critic, torch.randn(5, 6), torch.randn(7, 6), torch.rand(5, 1))
    assert found.item() == pytest.approx(1.0, rel=1e-4)
    assert torch.isfinite(torch.autograd.grad(found, critic[2].weight)[0]).all()


def test_penalty_looks_at_both_domains_and_between() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return x.square().sum(1, keepdim=True)

    source, target = torch.zeros(2, 6), torch.ones(3, 6)
    gradient_penalty(Spy(), source, target, torch.full((2, 1), 0.25))
    assert torch.equal(seen[0], torch.cat([source, target, torch.full((2, 6), 0.75)]))


def test_the_critic_measures_on_features_that_stand_still() -> None:
    given, method = views(), built(WDGRL, **KNOBS)
    torch.manual_seed(3)
    terms = method(given, context(stage="critic"))
    s, t = given["source"].features, given["target"].features
    distance = method.critic(s).mean() - method.critic(t).mean()
    torch.manual_seed(3)
    slopes = gradient_penalty(method.critic, s, t, torch.rand(5, 1))
    assert terms["wdgrl_critic"].item() == pytest.approx((7 * slopes - distance).item(), rel=1e-4)
    found = gradients(terms, s, t, *method.parameters())
    assert found[:2] == [None, None]
    ascent = torch.autograd.grad(
        7 * slopes - distance, list(method.parameters()), allow_unused=True
    )
    for a, b in zip(found[2:], ascent, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-5)


def test_the_features_come_nearer_and_the_critic_stands_still() -> None:
    given, method = views(), built(WDGRL, **KNOBS)
    terms = method(given, context(stage="features"))
    s, t = given["source"].features, given["target"].features
    distance = method.critic(s).mean() - method.critic(t).mean()
    assert terms["wdgrl"].item() == pytest.approx(0.5 * distance.item(), rel=1e-5)
    found = gradients(terms, s, t, *method.parameters())
    wanted = torch.autograd.grad(0.5 * distance, [s, t])
    assert torch.allclose(found[0], wanted[0], atol=1e-6)
    assert torch.allclose(found[1], wanted[1], atol=1e-6)
    assert found[2:] == [None] * len(found[2:])


def test_the_critic_takes_its_steps_before_the_features(tmp_path, monkeypatch) -> None:
    order, passes = [], []
    honest, views_of = DomainAdaptation.terms, DomainAdaptation.views
    monkeypatch.setattr(
        DomainAdaptation,
        "terms",
        lambda self, views, stage: order.append(stage.name) or honest(self, views, stage),
    )
    monkeypatch.setattr(
        DomainAdaptation, "views", lambda self, batch: passes.append(1) or views_of(self, batch)
    )
    arguments = ["model=domain_adaptation", "adapter=[wdgrl]", "adapter.wdgrl.repeats=3"]
    training.fit(config(*arguments, "trainer.max_epochs=1"), tmp_path)
    assert order == ["critic"] * 3 * 1 + ["features"] + (["critic"] * 3 + ["features"]) * 2
    assert len(passes) == 3  # one a batch
