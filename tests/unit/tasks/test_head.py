"""The classification head and its bottleneck."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.tasks.head import Head

PARAMS = {"in_features": 6, "num_classes": 3, "width": None, "activation": "tanh", "dropout": 0.0}
NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": None}


@pytest.mark.parametrize("norm", NORMS)
def test_bottleneck(norm: str) -> None:
    torch.manual_seed(0)
    head = Head(bottleneck=4, bottleneck_norm=norm, **PARAMS)
    x = torch.randn(5, 6)
    features, logits = head(x)
    y = head.bottleneck[0](x)
    if norm != "none":
        assert isinstance(head.bottleneck[1], NORMS[norm])
        axis = 0 if norm == "batch" else 1
        spread = (y.var(axis, correction=0, keepdim=True) + 1e-5).sqrt()
        y = (y - y.mean(axis, keepdim=True)) / spread
    assert torch.allclose(features, y.tanh(), atol=1e-6)
    assert torch.equal(logits, head.classifier(features))


def test_without_bottleneck_there_is_no_norm() -> None:
    head = Head(bottleneck=None, bottleneck_norm="batch", **PARAMS)
    assert not any(isinstance(part, nn.BatchNorm1d) for part in head.modules())


def test_hidden_layer_of_the_classifier_has_no_norm() -> None:
    head = Head(bottleneck=None, bottleneck_norm="batch", **{**PARAMS, "width": 7})
    names = [type(part).__name__ for part in head.classifier]
    assert names == ["Linear", "Tanh", "Linear"]


def test_unknown_norm_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"head\.bottleneck_norm=group.*batch, layer, none"):
        validation.check(config("head.bottleneck_norm=group"))
