"""Layer groups, chains of layer groups, image sizes and activation checkpointing."""

from __future__ import annotations

import pytest
import torch

from tl_lightning.backbones import wrapper as network
from tl_lightning.backbones.small import ConvNet
from tl_lightning.backbones.vision import TimmBackbone, TorchvisionBackbone
from tl_lightning.config.compose import compose
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError


def torchvision(
    name: str, size: int | None = 64, checkpointing: bool = False
) -> TorchvisionBackbone:
    return TorchvisionBackbone(
        name=name, pretrained=False, tag="DEFAULT", weights=None, size=size,
        grad_checkpointing=checkpointing, lr_factor=0.1, freeze_bn=False,
    )  # fmt: skip


def timm(name: str, size: int | None = 64, checkpointing: bool = False) -> TimmBackbone:
    return TimmBackbone(
        name=name, pretrained=False, weights=None, size=size, grad_checkpointing=checkpointing,
        lr_factor=0.1, freeze_bn=False,
    )  # fmt: skip


def small(features: int | None) -> ConvNet:
    return ConvNet(
        size=16, widths=[4, 8], kernel_size=3, activation="relu", norm=True, channel_dropout=0.1,
        features=features, mean=[0.5] * 3, std=[0.5] * 3, lr_factor=1.0,
    )  # fmt: skip


CHAINS = {
    "torchvision": (
        "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "vgg11_bn",
        "densenet121", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "convnext_tiny",
    ),
    "timm": ("tf_efficientnet_lite0", "resnet18", "convnext_atto", "mobilenetv3_small_100"),
}  # fmt: skip
OTHERS = {"torchvision": ("vit_b_16",), "timm": ("vit_tiny_patch16_224",)}
MAKE = {"torchvision": torchvision, "timm": timm}


def cases(table):
    return [(kind, name) for kind, names in table.items() for name in names]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [*cases(CHAINS), *cases(OTHERS)])
def test_every_parameter_and_buffer_is_in_exactly_one_group(kind: str, name: str) -> None:
    net = MAKE[kind](name, None if name == "vit_b_16" else 64)
    groups = net.layer_groups()
    grouped = [id(p) for group in groups for p in group.parameters]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(p) for p in net.parameters()}
    buffers = {id(b) for group in groups for m in group.modules for b in m.buffers()}
    assert buffers == {id(b) for b in net.buffers()}
    assert all(group.parameters for group in groups)
    assert len({group.name for group in groups}) == len(groups) > 4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), cases(CHAINS))
def test_the_chain_of_groups_equals_the_network(kind: str, name: str) -> None:
    net = MAKE[kind](name).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
        for group in net.layer_groups(chain=True):
            x = group.run(x)
    assert torch.equal(x, expected)
    assert x.shape == (2, net.out_features)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), cases(OTHERS))
def test_networks_that_are_not_a_chain(kind: str, name: str) -> None:
    net = MAKE[kind](name, None if name == "vit_b_16" else 64)
    assert all(group.run is None for group in net.layer_groups(chain=True))


@pytest.mark.parametrize("features", [None, 5])
def test_the_small_network_is_a_chain(features: int | None) -> None:
    net = small(features).eval()
    x = torch.randn(2, 3, 16, 16)
    expected = net(x)
    for group in net.layer_groups(chain=True):
        x = group.run(x)
    assert torch.equal(x, expected)


@pytest.mark.slow
def test_a_network_with_functional_dropout_is_not_a_chain() -> None:
    """Ghostnet equals its sequence of modules in evaluation mode, but not in training mode."""
    net = timm("ghostnet_100")
    assert all(group.run is None for group in net.layer_groups(chain=True))


def test_the_chain_test_has_no_side_effects(monkeypatch) -> None:
    monkeypatch.setattr(network, "_joins", {})
    net = torchvision("resnet18").train()
    net.net.layer1.eval()
    before = {name: b.clone() for name, b in net.named_buffers()}
    rng_state = torch.get_rng_state()
    net.layer_groups(chain=True)
    assert network._joins
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert net.training
    assert not net.net.layer1[0].bn1.training
    assert net.net.layer2[0].bn1.training
    assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())


@pytest.mark.parametrize("instantiate", [torchvision, timm])
def test_group_names_are_module_names(instantiate) -> None:
    names = [group.name for group in instantiate("resnet18").layer_groups()]
    assert names == ["conv1", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    "net", [("torchvision", "resnet18"), ("timm", "resnet18"), ("timm", "vit_tiny_patch16_224")]
)
def test_other_image_sizes(net: tuple[str, str]) -> None:
    backbone = MAKE[net[0]](net[1], 96).eval()
    assert backbone.input_spec.size == 96
    assert backbone(torch.zeros(1, 3, 96, 96)).shape == (1, backbone.out_features)


def test_error_for_a_network_with_fixed_size() -> None:
    message = r"backbone.size=96 is not supported with vit_b_16 .*requires 224 pixels; set backbon"
    with pytest.raises(ConfigError, match=message):
        torchvision("vit_b_16", 96)


@pytest.mark.parametrize("net", [
    ("torchvision", "alexnet"), ("timm", "vit_tiny_patch16_224"),
    pytest.param(("timm", "vgg11"), marks=pytest.mark.slow),
])  # fmt: skip
def test_error_for_an_unsupported_size(net: tuple[str, str]) -> None:
    message = rf"backbone.size=10 is not supported with {net[1]} \(.*\); set backbone.size=null"
    with pytest.raises(ConfigError, match=message):
        MAKE[net[0]](net[1], 10)


def test_size_zero_is_rejected_by_the_validation() -> None:
    settings = compose(["data=digits", "backbone=resnet18", "backbone.size=0"])
    with pytest.raises(ConfigError, match=r"backbone.size=0 must be positive; set backbone.size="):
        check(settings)


def step(net, x):
    """Return the gradients, the buffers after a step, and the bytes saved for the backward pass."""
    saved = []

    def pack(tensor):
        saved.append(tensor.nbytes)
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(x)
    out.square().mean().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return gradients, dict(net.named_buffers()), sum(saved)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_checkpointing_changes_neither_gradients_nor_running_statistics(name: str) -> None:
    plain, saving = torchvision(name), torchvision(name, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 64, 64)
    (a, b, whole), (c, d, less) = step(plain.train(), x), step(saving.train(), x)
    assert all(torch.equal(a[key], c[key]) for key in a)
    assert all(torch.equal(b[key], d[key]) for key in b)
    assert less < 0.3 * whole


def test_a_transformer_uses_the_checkpointing_of_timm() -> None:
    plain, saving = timm("vit_tiny_patch16_224"), timm("vit_tiny_patch16_224", checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    (a, _, whole), (c, _, less) = step(plain.train(), x), step(saving.train(), x)
    assert all(torch.allclose(a[key], c[key], atol=1e-7) for key in a)
    assert less < 0.3 * whole


@pytest.mark.slow
def test_error_for_a_network_that_is_not_a_chain() -> None:
    message = (
        r"grad_checkpointing=true is not supported with vit_b_16, which is not a chain of layers; "
        r"set backbone.grad_checkpointing=false, or use the timm network"
    )
    with pytest.raises(ConfigError, match=message):
        torchvision("vit_b_16", None, checkpointing=True)


@pytest.mark.parametrize("name", ["levit_128s", "ghostnet_100"])
def test_error_for_batch_norm_that_would_be_updated_twice(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"has batch norm, whose statistics would be updated twic"
    ):
        timm(name, checkpointing=True)


def test_error_for_a_timm_network_without_checkpointing() -> None:
    message = r"is not supported with pit_ti_distilled_224 in timm \(.*\); set backbone.grad_check"
    with pytest.raises(ConfigError, match=message):
        timm("pit_ti_distilled_224", None, checkpointing=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_checkpointing_updates_running_statistics_once(backend: str) -> None:
    plain, saving = torchvision("resnet18"), torchvision("resnet18", checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 64, 64)
    a, b, _ = step(plain.train(), x)
    names = list(saving.state_dict())
    saving.compile(backend=backend)
    c, d, _ = step(saving.train(), x)
    assert list(saving.state_dict()) == names
    assert all(torch.allclose(a[key], c[key], atol=1e-6) for key in a)
    assert all(torch.equal(b[key], d[key]) for key in b)
