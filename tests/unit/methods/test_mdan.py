"""MDAN against the smooth maximum of the sources' losses."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from methods import built, context, views
from tl_lightning.errors import ConfigError
from tl_lightning.methods.components.adversary import domain_loss
from tl_lightning.methods.components.source_domains import domain_losses
from tl_lightning.methods.mdan import MDAN

PARAMS = {
    "max_lambda": 1.0, "gain": 10.0, "ramp_steps": None, "width": 8, "depth": 1, "dropout": 0.0,
    "norm": "none", "activation": "relu", "gamma": 3.0, "gather": False, "num_sources": 2,
}  # fmt: skip


def given():
    found = views(6, 5)
    found["source"].domain = torch.tensor([0, 1, 0, 1, 1, 1])
    return found


def losses(method, found) -> torch.Tensor:
    source, target = found["source"], found["target"]
    out = [method.discriminator(view.features) for view in (source, target)]
    return torch.stack([domain_loss(out[0][source.domain == d, d], out[1][:, d]) for d in range(2)])


def test_gradient_is_that_of_the_smooth_maximum() -> None:
    found, method = given(), built(MDAN, **PARAMS)
    parameters = list(method.discriminator.parameters())
    actual = torch.autograd.grad(method(found, context())["mdan"], parameters)
    both = domain_losses(found["source"]).detach() + losses(method, found)
    smooth = torch.logsumexp(3.0 * both, 0) / 3.0
    for one, other in zip(actual, torch.autograd.grad(smooth, parameters), strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_of_the_features_is_reversed() -> None:
    found, method = given(), built(MDAN, **{**PARAMS, "gamma": 0.0})
    features = found["target"].features
    (actual,) = torch.autograd.grad(method(found, context())["mdan"], features)
    (plain,) = torch.autograd.grad(losses(method, found).mean(), features)
    torch.testing.assert_close(actual, -method.strength(context()) * plain)


def test_domain_logits_are_those_of_the_likeliest_source() -> None:
    found, method = given(), built(MDAN, **PARAMS)
    view = found["source"]
    out = method.domain_logits(view.features, view.logits)
    assert torch.equal(out, method.discriminator(view.features).max(1).values)
    assert functional.sigmoid(out).shape == (6,)


def test_the_number_of_domains_must_be_known() -> None:
    with pytest.raises(ConfigError, match=r"method\.mdan\.num_sources=null is taken from the data"):
        built(MDAN, **{**PARAMS, "num_sources": None})
