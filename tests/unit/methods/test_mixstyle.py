"""MixStyle: the formula, and where and when it acts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers import config
from methods import built
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.methods.mixstyle import MixStyle, mixed_style
from tl_lightning.training import build as building


def test_statistics_are_mixed_and_the_content_is_kept() -> None:
    x = torch.randn(4, 3, 5, 5)
    weight, order = torch.rand(4, 1, 1, 1), torch.tensor([1, 2, 3, 0])
    out = mixed_style(x, weight, order)
    mean, std = (f(x.flatten(2), dim=2) for f in (torch.mean, lambda v, dim: v.std(dim, False)))
    w = weight[:, :, 0, 0]
    expected = w * mean + (1 - w) * mean[order]
    torch.testing.assert_close(out.mean((2, 3)), expected)
    expected = w * std + (1 - w) * std[order]
    torch.testing.assert_close(out.flatten(2).std(2, False), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed_style(x, torch.ones_like(weight), order), x, atol=1e-5, rtol=0)


def network(p: float):
    given = "model=mixstyle", f"method.mixstyle.p={p}"
    return building.build_module(validation.check(config(*given)), tuple("0123456789"))


def test_it_acts_in_training_only() -> None:
    net = network(1.0)
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    assert len(net.methods["mixstyle"].places) == 2
    net.eval()
    assert torch.equal(net.extract(images), net.extract(images))
    net.train()
    assert not torch.equal(net.extract(images), net.extract(images))
    never = network(0.0).train()
    torch.testing.assert_close(never.extract(images), never.extract(images))


def test_the_output_of_frozen_layers_is_mixed_too() -> None:
    net = network(1.0).train()
    net.backbone.eval()
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    assert not torch.equal(net.extract(images), net.extract(images))


def test_settings_that_it_cannot_be_combined_with() -> None:
    with pytest.raises(ConfigError, match="mixes the styles of the source's domains, but model"):
        validation.check(config("model=domain_adaptation", "method=[mixstyle]"))
    given = "model=mixstyle", "cache.features=prefix", "data.augment=none"
    with pytest.raises(
        ConfigError, match=r"changes the outputs of early layers in every step, but"
    ):
        validation.check(config(*given))
    method = built(MixStyle, p=0.5, alpha=0.1)
    with pytest.raises(ConfigError, match="mixes after early layers, but Identity has 0 layer"):
        method.modify_network(nn.Identity(), nn.Identity())


def test_layers_that_return_no_maps_are_refused() -> None:
    method = built(MixStyle, p=1.0, alpha=0.1)
    layer = nn.Identity().train()
    with pytest.raises(ConfigError, match=r"mixes maps \(B, C, H, W\), but a layer group returns"):
        method._mix(layer, (), torch.zeros(2, 5, 8))
