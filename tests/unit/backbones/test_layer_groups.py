"""Layer groups hold everything once; where they are a chain, they are the network."""

from __future__ import annotations

import pytest
import torch

from tl_lightning.backbones import wrapper as network
from tl_lightning.backbones.small import ConvNet
from tl_lightning.backbones.vision import TimmBackbone, TorchvisionBackbone
from tl_lightning.config.compose import compose
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError


def torchvision(name: str, size: int | None = 64, again: bool = False) -> TorchvisionBackbone:
    return TorchvisionBackbone(
        name=name, pretrained=False, tag="DEFAULT", weights=None, size=size,
        grad_checkpointing=again, lr_factor=0.1,
    )  # fmt: skip


def timm(name: str, size: int | None = 64, again: bool = False) -> TimmBackbone:
    return TimmBackbone(
        name=name, pretrained=False, weights=None, size=size, grad_checkpointing=again,
        lr_factor=0.1,
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


@pytest.mark.parametrize(("kind", "name"), [*cases(CHAINS), *cases(OTHERS)])
def test_groups_hold_every_parameter_and_buffer_once(kind: str, name: str) -> None:
    net = MAKE[kind](name, None if name == "vit_b_16" else 64)
    groups = net.layer_groups()
    held = [id(p) for group in groups for p in group.parameters]
    assert len(set(held)) == len(held)
    assert set(held) == {id(p) for p in net.parameters()}
    buffers = {id(b) for group in groups for m in group.modules for b in m.buffers()}
    assert buffers == {id(b) for b in net.buffers()}
    assert all(group.parameters for group in groups)
    assert len({group.name for group in groups}) == len(groups) > 4


@pytest.mark.parametrize(("kind", "name"), cases(CHAINS))
def test_the_chain_of_groups_is_the_network(kind: str, name: str) -> None:
    net = MAKE[kind](name).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = net(x)
        for group in net.layer_groups(chain=True):
            x = group.run(x)
    assert torch.equal(x, wanted)
    assert x.shape == (2, net.out_features)


@pytest.mark.parametrize(("kind", "name"), cases(OTHERS))
def test_what_is_no_chain_says_so(kind: str, name: str) -> None:
    net = MAKE[kind](name, None if name == "vit_b_16" else 64)
    assert all(group.run is None for group in net.layer_groups(chain=True))


@pytest.mark.parametrize("features", [None, 5])
def test_the_small_network_is_a_chain(features: int | None) -> None:
    net = small(features).eval()
    x = torch.randn(2, 3, 16, 16)
    wanted = net(x)
    for group in net.layer_groups(chain=True):
        x = group.run(x)
    assert torch.equal(x, wanted)


def test_what_drops_features_without_a_module_is_no_chain() -> None:
    """In evaluation mode ghostnet is its row of modules, in training mode it is not."""
    net = timm("ghostnet_100")
    assert all(group.run is None for group in net.layer_groups(chain=True))


def test_looking_leaves_everything_as_it_was(monkeypatch) -> None:
    monkeypatch.setattr(network, "_joins", {})
    net = torchvision("resnet18").train()
    net.net.layer1.eval()
    before = {name: b.clone() for name, b in net.named_buffers()}
    draws = torch.get_rng_state()
    net.layer_groups(chain=True)
    assert network._joins
    assert torch.equal(torch.get_rng_state(), draws)
    assert net.training
    assert not net.net.layer1[0].bn1.training
    assert net.net.layer2[0].bn1.training
    assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())


@pytest.mark.parametrize("make", [torchvision, timm])
def test_names_are_the_networks_own(make) -> None:
    names = [group.name for group in make("resnet18").layer_groups()]
    assert names == ["conv1", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    "net", [("torchvision", "resnet18"), ("timm", "resnet18"), ("timm", "vit_tiny_patch16_224")]
)
def test_pictures_of_another_size(net: tuple[str, str]) -> None:
    backbone = MAKE[net[0]](net[1], 96).eval()
    assert backbone.input_spec.size == 96
    assert backbone(torch.zeros(1, 3, 96, 96)).shape == (1, backbone.out_features)


def test_a_fixed_size_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"vit_b_16 .* takes pictures of 224 pixels only, got"):
        torchvision("vit_b_16", 96)


@pytest.mark.parametrize(
    "net", [("torchvision", "alexnet"), ("timm", "vit_tiny_patch16_224"), ("timm", "vgg11")]
)
def test_a_size_that_cannot_pass_is_refused_in_a_sentence(net: tuple[str, str]) -> None:
    words = (
        rf"{net[1]} cannot take pictures of backbone.size=10 pixels \(.*\); type backbone.size=n"
    )
    with pytest.raises(ConfigError, match=words):
        MAKE[net[0]](net[1], 10)


def test_a_size_below_one_is_a_fault_of_the_configuration() -> None:
    settings = compose(["data=digits", "backbone=resnet18", "backbone.size=0"])
    with pytest.raises(ConfigError, match=r"backbone.size=0 is not above 0; type backbone.size="):
        check(settings)


def step(net, x):
    """Return the loss's gradients, the buffers after a step, and the bytes kept for backward."""
    kept = []

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(x)
    out.square().mean().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return gradients, dict(net.named_buffers()), sum(kept)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_recomputing_changes_neither_gradients_nor_running_statistics(name: str) -> None:
    plain, again = torchvision(name), torchvision(name, again=True)
    again.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 64, 64)
    (a, b, whole), (c, d, less) = step(plain.train(), x), step(again.train(), x)
    assert all(torch.equal(a[key], c[key]) for key in a)
    assert all(torch.equal(b[key], d[key]) for key in b)
    assert less < 0.3 * whole


def test_a_transformer_recomputes_by_itself() -> None:
    plain, again = timm("vit_tiny_patch16_224"), timm("vit_tiny_patch16_224", again=True)
    again.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    (a, _, whole), (c, _, less) = step(plain.train(), x), step(again.train(), x)
    assert all(torch.allclose(a[key], c[key], atol=1e-7) for key in a)
    assert less < 0.3 * whole


def test_what_cannot_recompute_says_so() -> None:
    with pytest.raises(ConfigError, match=r"vit_b_16 is no chain of layers, so that backbone.grad"):
        torchvision("vit_b_16", None, again=True)


@pytest.mark.parametrize("name", ["levit_128s", "ghostnet_100"])
def test_batch_norm_that_would_move_twice_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"has batch norm, whose statistics would move twice a s"):
        timm(name, again=True)


def test_what_timm_cannot_recompute_says_so() -> None:
    with pytest.raises(ConfigError, match=r"timm cannot recompute pit_ti_distilled_224 \(backbone"):
        timm("pit_ti_distilled_224", None, again=True)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_recomputing_moves_running_statistics_once(backend: str) -> None:
    plain, again = torchvision("resnet18"), torchvision("resnet18", again=True)
    again.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 64, 64)
    a, b, _ = step(plain.train(), x)
    names = list(again.state_dict())
    again.compile(backend=backend)
    c, d, _ = step(again.train(), x)
    assert list(again.state_dict()) == names
    assert all(torch.allclose(a[key], c[key], atol=1e-6) for key in a)
    assert all(torch.equal(b[key], d[key]) for key in b)
