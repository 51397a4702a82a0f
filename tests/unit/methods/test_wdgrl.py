"""WDGRL: critic step, feature step and gradient penalty."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers import config
from methods import built, context, gradients, views
from tl_lightning.methods.wdgrl import WDGRL, gradient_penalty
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.training import fit as training
from tl_lightning.types import View

PARAMS = {"weight": 0.5, "repeats": 2, "penalty": 7.0, "width": 8, "depth": 1, "activation": "tanh"}


def test_penalty_of_a_linear_critic() -> None:
    torch.manual_seed(0)
    critic = nn.Linear(6, 1)
    result = gradient_penalty(critic, torch.randn(5, 6), torch.randn(7, 6), torch.rand(5, 1))
    assert result.item() == pytest.approx((critic.weight.norm().item() - 1) ** 2, rel=1e-4)
    assert torch.autograd.grad(result, critic.weight)[0].abs().sum() > 0


def test_penalty_of_a_constant_critic_has_a_finite_gradient() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.zeros_(critic[2].weight)
    result = gradient_penalty(critic, torch.randn(5, 6), torch.randn(7, 6), torch.rand(5, 1))
    assert result.item() == pytest.approx(1.0, rel=1e-4)
    assert torch.isfinite(torch.autograd.grad(result, critic[2].weight)[0]).all()


def test_penalty_is_evaluated_on_both_domains_and_interpolations() -> None:
    inputs = []

    class Spy(nn.Module):
        def forward(self, x):
            inputs.append(x.detach().clone())
            return x.square().sum(1, keepdim=True)

    source, target = torch.zeros(2, 6), torch.ones(3, 6)
    gradient_penalty(Spy(), source, target, torch.full((2, 1), 0.25))
    assert torch.equal(inputs[0], torch.cat([source, target, torch.full((2, 6), 0.75)]))


def test_critic_step_trains_only_the_critic() -> None:
    given, method = views(), built(WDGRL, **PARAMS)
    terms = method(given, context(stage="critic"))
    s, t = given["source"].features, given["target"].features
    distance = method.critic(s).mean() - method.critic(t).mean()
    method.place = (-1, 0)
    alphas = method.alphas(given["source"], 5, context().step)
    penalty = gradient_penalty(method.critic, s, t, alphas)
    assert terms["wdgrl_critic"].item() == pytest.approx((7 * penalty - distance).item(), rel=1e-4)
    result = gradients(terms, s, t, *method.parameters())
    assert result[:2] == [None, None]
    expected = torch.autograd.grad(
        7 * penalty - distance, list(method.parameters()), allow_unused=True
    )
    for a, b in zip(result[2:], expected, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-5)


def test_points_follow_the_samples_and_differ_in_every_step() -> None:
    """Two ranks with every second sample use the points of one rank with all of them."""
    view, method = views()["source"], built(WDGRL, **PARAMS)

    def drawn(place: tuple[int, int], keep: slice, step: int = 4) -> torch.Tensor:
        method.place = place
        part = View(view.features[keep], view.logits[keep], index=view.index[keep])
        return method.alphas(part, len(part.features), step)

    whole = drawn((-1, 0), slice(None))
    assert torch.equal(drawn((-1, 0), slice(1, None, 2)), whole[1::2])
    others = [drawn((4, 0), slice(None)), drawn((-1, 0), slice(None), step=5)]
    assert all(not (whole == other).any() for other in others)
    assert whole.unique().numel() == len(whole)
    assert ((whole >= 0) & (whole < 1)).all()
    unknown = View(view.features, view.logits)
    assert method.alphas(unknown, 3, 4).shape == (3, 1)


def test_feature_step_trains_only_the_features() -> None:
    given, method = views(), built(WDGRL, **PARAMS)
    terms = method(given, context(stage="features"))
    s, t = given["source"].features, given["target"].features
    distance = method.critic(s).mean() - method.critic(t).mean()
    assert terms["wdgrl"].item() == pytest.approx(0.5 * distance.item(), rel=1e-5)
    result = gradients(terms, s, t, *method.parameters())
    expected = torch.autograd.grad(0.5 * distance, [s, t])
    assert torch.allclose(result[0], expected[0], atol=1e-6)
    assert torch.allclose(result[1], expected[1], atol=1e-6)
    assert result[2:] == [None] * len(result[2:])


@pytest.mark.slow
def test_critic_steps_precede_the_feature_step(tmp_path, monkeypatch) -> None:
    order, passes = [], []
    original, views_of = DomainAdaptation.terms, DomainAdaptation.views
    monkeypatch.setattr(
        DomainAdaptation,
        "terms",
        lambda self, views, stage: order.append(stage.name) or original(self, views, stage),
    )
    monkeypatch.setattr(
        DomainAdaptation, "views", lambda self, batch: passes.append(1) or views_of(self, batch)
    )
    arguments = ["model=domain_adaptation", "method=[wdgrl]", "method.wdgrl.repeats=3"]
    training.fit(config(*arguments, "trainer.max_epochs=1"), tmp_path)
    assert order == ["critic"] * 3 * 1 + ["features"] + (["critic"] * 3 + ["features"]) * 2
    assert len(passes) == 3  # one forward pass per batch
