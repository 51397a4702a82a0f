"""The small network against activation followed by pooling, for all activations."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers import config
from tl_lightning.backbones.small import ConvNet
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.layers import ACTIVATIONS, MONOTONE, Activation, activation

PARAMS = {
    "size": 8, "widths": (4, 6), "kernel_size": 3, "norm": True, "channel_dropout": 0.0,
    "features": 5, "mean": (0.5,) * 3, "std": (0.5,) * 3, "lr_factor": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", get_args(Activation))
def test_outputs_equal_activation_followed_by_pooling(name: Activation) -> None:
    torch.manual_seed(0)
    net = ConvNet(activation=name, **PARAMS)
    x = torch.randn(4, 3, 8, 8)
    act = activation(name)
    maps = x
    for block in net.blocks:
        maps = functional.max_pool2d(act(block[1](block[0](maps))), 2)
    expected = act(net.neck[0](maps.flatten(1)))
    net.train()  # batch norm uses batch statistics, as above
    assert torch.equal(net(x), expected)


def test_monotone_activations() -> None:
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    monotone = {name for name in ACTIVATIONS if (activation(name)(x).diff() >= 0).all()}
    assert monotone == MONOTONE


def test_parameter_names_do_not_depend_on_the_activation() -> None:
    names = [set(ConvNet(activation=a, **PARAMS).state_dict()) for a in ("relu", "gelu")]
    assert names[0] == names[1]
    assert isinstance(ConvNet(activation="gelu", **PARAMS).blocks[0][2], nn.GELU)


def test_an_unknown_activation_is_rejected_by_the_validation() -> None:
    with pytest.raises(ConfigError, match=r"backbone.activation=tanhh is not one of relu, tanh,"):
        validation.check(config("backbone.activation=tanhh"))
