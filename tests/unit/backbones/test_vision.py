"""Backbones from torchvision and timm, with random weights: nothing is downloaded."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tl_lightning.backbones.small import ConvNet
from tl_lightning.backbones.vision import TimmBackbone, TorchvisionBackbone, nearest_timm
from tl_lightning.backbones.weights import read_weights
from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.models import TransferModule

PLAIN = {"size": None, "grad_checkpointing": False}


def torchvision(name: str = "resnet18", **changes) -> TorchvisionBackbone:
    plain = {
        "pretrained": False,
        "tag": "DEFAULT",
        "weights": None,
        "size": None,
        "grad_checkpointing": False,
        "lr_factor": 0.1,
    }
    return TorchvisionBackbone(name=name, **{**plain, **changes})


def timm(name: str = "resnet18", **changes) -> TimmBackbone:
    plain = {
        "pretrained": False,
        "weights": None,
        "size": None,
        "grad_checkpointing": False,
        "lr_factor": 0.1,
    }
    return TimmBackbone(name=name, **{**plain, **changes})


@pytest.mark.filterwarnings("ignore:The default weight initialization of inception_v3")
@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16", "inception_v3",
     "vgg16_bn", "convnext_tiny", "densenet121", "googlenet"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize("mode", [True, False])
def test_torchvision_features_have_the_stated_width(name: str, mode: bool) -> None:
    """On the meta device: shapes without arithmetic."""
    with torch.device("meta"):
        net = torchvision(name).train(mode)
        size = net.input_spec.size
        assert net(torch.zeros(2, 3, size, size)).shape == (2, net.out_features)
    assert not any(isinstance(m, nn.Linear) and m.out_features == 1000 for m in net.modules())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_timm_features_have_the_stated_width(name: str) -> None:
    net = timm(name).eval()
    with torch.no_grad():
        size = net.input_spec.size
        assert net(torch.zeros(1, 3, size, size)).shape == (1, net.out_features)


def test_input_spec_is_the_backbones_own() -> None:
    assert timm("tf_efficientnet_lite0").input_spec.mean == (0.5, 0.5, 0.5)
    assert timm("tf_efficientnet_lite0").input_spec.std == (0.5, 0.5, 0.5)
    spec = torchvision("resnet18").input_spec
    assert spec.mean == (0.485, 0.456, 0.406)
    assert spec.size == 224


@pytest.mark.parametrize("make", [torchvision, timm])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(make, suffix, tmp_path) -> None:
    torch.manual_seed(1)
    donor = make("resnet18")
    state = {k: v.contiguous() for k, v in donor.net.state_dict().items()}
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    torch.manual_seed(2)
    net = make("resnet18", weights=str(path))
    assert all(torch.equal(a, b) for a, b in zip(donor.parameters(), net.parameters(), strict=True))


def test_weights_words(tmp_path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no weights file at backbone.weights=.*type the path"
    ):
        read_weights(str(tmp_path / "no.pth"))
    bad = tmp_path / "bad.pth"
    bad.write_text("hello")
    with pytest.raises(CheckpointError, match=r"cannot read backbone.weights=.*tensors only"):
        read_weights(str(bad))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"holds no state dict of tensors"):
        read_weights(str(tmp_path / "list.pth"))
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"does not fit this backbone: .* missing or of another"
    ):
        torchvision(weights=str(tmp_path / "other.pth"))
    state = {**torchvision().net.state_dict(), "alien.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "alien.pth")
    with pytest.raises(CheckpointError, match=r"it also holds alien.weight"):
        torchvision(weights=str(tmp_path / "alien.pth"))


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"torchvision has no network .*did you mean 'resnet18'"):
        torchvision("reset18")
    with pytest.raises(ConfigError, match=r"no weights backbone.tag=IMAGENET1K_V9; did you mean"):
        torchvision(tag="IMAGENET1K_V9")
    with pytest.raises(ConfigError, match=r"timm has no network .*did you mean"):
        timm("resnett18")
    assert nearest_timm("qqqqqq", ["a", "b"]) == "timm.list_models() lists them"


def test_the_tanh_network_computes_its_size() -> None:
    for size in (16, 28, 32):
        net = ConvNet(
            size=size, widths=[8, 16], kernel_size=5, activation="tanh", norm=True,
            channel_dropout=0.0, features=32, mean=[0.5] * 3, std=[0.5] * 3, lr_factor=1.0,
        )  # fmt: skip
        assert net(torch.zeros(2, 3, size, size)).shape == (2, 32)
        assert sum(isinstance(m, nn.Tanh) for m in net.modules()) == 3


def test_convnet_words() -> None:
    with pytest.raises(ConfigError) as caught:
        ConvNet(
            size=4, widths=[8, 8, 8], kernel_size=2, activation="tanh", norm=True,
            channel_dropout=0.0, features=None, mean=[0.5], std=[0.5, 0.5], lr_factor=1.0,
        )  # fmt: skip
    assert [w.split(":")[0].split(",")[0] for w in caught.value.faults] == [
        "kernel_size must be odd", "every block halves the picture",
        "mean has 1 channels and std 2; set backbone.mean=[0.5",
    ]  # fmt: skip
    assert TransferModule is not None
