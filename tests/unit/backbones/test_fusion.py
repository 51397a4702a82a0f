"""Batch norm inside the convolutions, while features are extracted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from tl_lightning.backbones.fusion import fused
from tl_lightning.config.compose import as_dict, compose
from tl_lightning.layers import Part
from tl_lightning.methods.components.domain_norm import DomainBatchNorm
from tl_lightning.training import feature_extraction
from tl_lightning.training import fit as training

IMAGES = torch.rand(2, 3, 64, 64)


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
        with fused(net, images) as number:
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
            with fused(net, images):
                found = (net(images) - exact).square().mean()
    assert found < 1.5 * plain


def test_network_is_the_same_object_by_object_afterwards() -> None:
    net = network()
    before = dict(net.named_modules())
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="within"), fused(net, IMAGES):
        raise RuntimeError("within")
    assert dict(net.named_modules()) == before
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_buffers_are_not_changed(training: bool) -> None:
    """Even if the network is evaluated and set back in between, as a trainer does."""
    net = network("resnet18").train(training)
    modes = {name: module.training for name, module in net.named_modules()}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with fused(net, IMAGES) as number:
        assert number == 20
        net.eval()
        net(IMAGES)
        net.train(training)
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


class Net(nn.Module):
    """Uses a convolution and a norm in one of several ways."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.conv, self.norm, self.case = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), case
        nn.init.normal_(self.norm.weight)
        self.listed = [self.conv]
        if case == "alias":
            self.stem = self.conv

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(inputs)
        if self.case == "output twice":
            return self.norm(out) + out
        if self.case == "convolution twice":
            return self.norm(out) + self.conv(inputs + 1)
        if self.case == "norm twice":
            return self.norm(out) + self.norm(inputs)
        if self.case == "control flow by values":
            return self.norm(out) if inputs.sum() > 0 else out
        if self.case == "mode":
            return self.norm(out) if self.training else self.norm(out) + out
        if self.case == "alias":
            return self.norm(self.stem(inputs))
        if self.case == "list":
            return self.norm(self.listed[0](inputs))
        if self.case == "weight of the convolution":
            return self.norm(out) + nn.functional.conv2d(inputs, self.conv.weight)
        if self.case == "weight of the norm":
            return self.norm(out) * self.norm.weight.view(1, -1, 1, 1)
        if self.case == "counts":
            self.norm.num_batches_tracked += 1
        return self.norm(out)


@pytest.mark.parametrize(
    "case",
    ["output twice", "convolution twice", "norm twice", "control flow by values", "mode", "alias",
     "list", "weight of the convolution", "weight of the norm", "hook", "statistics", "class",
     "forward of an instance"],
)  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_layers_that_are_used_otherwise_give_the_same_output(case: str, training: bool) -> None:
    torch.manual_seed(0)
    net = Net(case).train(training)
    if case == "hook":
        net.conv.register_forward_hook(lambda *_: None)
    if case == "statistics":
        net.norm = nn.BatchNorm2d(3, track_running_stats=False)
    if case == "class":
        net.norm = type("Other", (nn.BatchNorm2d,), {})(3)
    if case == "forward of an instance":
        net.conv.forward = partial(nn.Conv2d.forward, net.conv)  # type: ignore[method-assign]
    images = torch.rand(2, 3, 4, 4)
    expected = copy.deepcopy(net).eval()(images)
    with fused(net, images):
        found = net.eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_network_of_one_pair_is_fused_and_a_trial_does_not_run_it() -> None:
    net = Net("counts").eval()
    with fused(net, torch.rand(2, 3, 4, 4)) as number:
        assert number in (0, 1)
    assert int(net.norm.num_batches_tracked) == 0
    with fused(Net("plain").eval(), torch.rand(2, 3, 4, 4)) as number:
        assert number == 1


def test_batch_norm_of_each_domain_is_left_alone() -> None:
    """Its path for one domain would otherwise become that of both."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1), DomainBatchNorm(nn.BatchNorm2d(3), own_affine=True))
    layer: Any = net.eval()[1]
    assert layer.parts == [Part("target", 0)]
    with fused(net, IMAGES) as number:
        assert number == 0


@pytest.mark.slow
@pytest.mark.parametrize(("features", "expected"), [("full", [20]), ("prefix", [])])
def test_extraction_uses_fused_layers(features, expected, tmp_path, monkeypatch) -> None:
    """Not for a prefix, whose layer groups may hold a single layer of the network."""
    numbers = []

    @contextmanager
    def recorded(*args: Any) -> Iterator[int]:
        with fused(*args) as number:
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
