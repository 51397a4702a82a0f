"""Batch norm inside the convolutions, while features are extracted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from tl_lightning.backbones.fusion import fused
from tl_lightning.config.compose import as_dict, compose
from tl_lightning.methods.components.domain_norm import DomainBatchNorm
from tl_lightning.training import feature_extraction
from tl_lightning.training import fit as training


def network(name: str = "mobilenet_v2") -> nn.Module:
    """Return a network whose batch norm has statistics and weights as after training."""
    torch.manual_seed(0)
    net: nn.Module = getattr(torchvision.models, name)(weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize(("name", "layers"), [("mobilenet_v2", 52), ("resnet18", 20)])
def test_output_is_the_same_up_to_rounding(name: str, layers: int) -> None:
    net, images = network(name), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = net(images)
        with fused(net) as number:
            found = net(images)
            assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert number == layers
    assert not torch.equal(found, expected)  # the layers were indeed replaced
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rounding_in_bfloat16_is_not_larger_than_that_of_the_network_itself() -> None:
    net, images = network(), torch.rand(8, 3, 64, 64)
    with torch.inference_mode():
        exact = net(images)
        with torch.autocast("cpu", torch.bfloat16):
            plain = (net(images) - exact).square().mean()
            with fused(net):
                found = (net(images) - exact).square().mean()
    assert found < 1.5 * plain


def test_network_is_the_same_object_by_object_afterwards() -> None:
    net = network()
    before = dict(net.named_modules())
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="within"), fused(net):
        raise RuntimeError("within")
    assert dict(net.named_modules()) == before
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


class Shared(nn.Module):
    """Uses the output of a convolution, a convolution, or a norm twice."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.conv, self.norm, self.case = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), case

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(inputs)
        if self.case == "output":
            return self.norm(out) + out
        if self.case == "convolution":
            return self.norm(out) + self.conv(inputs + 1)
        if self.case == "norm":
            return self.norm(out) + self.norm(inputs)
        if self.case == "values":
            return self.norm(out) if inputs.sum() > 0 else out
        return self.norm(out)


@pytest.mark.parametrize(
    "case", ["output", "convolution", "norm", "values", "hook", "statistics", "class"]
)
def test_layers_that_are_used_otherwise_are_left_alone(case: str) -> None:
    net = Shared(case).eval()
    if case == "hook":
        net.conv.register_forward_hook(lambda *_: None)
    if case == "statistics":
        net.norm = nn.BatchNorm2d(3, track_running_stats=False)
    if case == "class":
        net.norm = type("Other", (nn.BatchNorm2d,), {})(3).eval()
    images = torch.rand(2, 3, 4, 4)
    expected = net(images)
    with fused(net) as number:
        assert number == 0
        assert torch.equal(net(images), expected)
    with fused(Shared("plain").eval()) as number:
        assert number == 1


def test_batch_norm_of_each_domain_is_left_alone() -> None:
    """Its path for one domain would otherwise become that of both."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1), DomainBatchNorm(nn.BatchNorm2d(3), own_affine=True))
    layer: Any = net.eval()[1]
    assert layer.parts == [("target", 0)]
    with fused(net) as number:
        assert number == 0


@pytest.mark.slow
@pytest.mark.parametrize(("features", "expected"), [("full", [20]), ("prefix", [])])
def test_extraction_uses_fused_layers(features, expected, tmp_path, monkeypatch) -> None:
    """Not for a prefix, whose layer groups may hold a single layer of the network."""
    numbers = []

    @contextmanager
    def recorded(net: nn.Module) -> Iterator[int]:
        with fused(net) as number:
            numbers.append(number)
            yield number

    monkeypatch.setattr(feature_extraction, "fused", recorded)
    layers = "head" if features == "full" else "head,last:1"
    overrides = [
        "model=source_only", "data=digits", "data.target=null", "backbone=resnet18",
        "backbone.size=32", "backbone.pretrained=false", "data.augment=none", "trainer=cpu",
        "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=2",
        f"cache.features={features}", f"phases.steps=[{{from: 0, train: [{layers}]}}]",
    ]  # fmt: skip
    plain = as_dict(compose(overrides))
    report = training.fit(plain, tmp_path)
    assert sum(part["computed"] for part in report["dataset"]["features"].values()) > 0
    assert numbers == expected
