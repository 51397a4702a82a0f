"""Backbones from torchvision and timm with random weights, without downloads."""

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
        "freeze_bn": False,
        "lr_factor": 0.1,
    }
    return TorchvisionBackbone(name=name, **{**plain, **changes})


def timm(name: str = "resnet18", **changes) -> TimmBackbone:
    plain = {
        "pretrained": False,
        "weights": None,
        "size": None,
        "grad_checkpointing": False,
        "freeze_bn": False,
        "lr_factor": 0.1,
    }
    return TimmBackbone(name=name, **{**plain, **changes})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The default weight initialization of inception_v3")
@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16", "inception_v3",
     "vgg16_bn", "convnext_tiny", "densenet121", "googlenet"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize("mode", [True, False])
def test_torchvision_features_have_the_stated_width(name: str, mode: bool) -> None:
    """On the meta device, which computes only shapes."""
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


def test_input_spec() -> None:
    assert timm("tf_efficientnet_lite0").input_spec.mean == (0.5, 0.5, 0.5)
    assert timm("tf_efficientnet_lite0").input_spec.std == (0.5, 0.5, 0.5)
    spec = torchvision("resnet18").input_spec
    assert spec.mean == (0.485, 0.456, 0.406)
    assert spec.size == 224


@pytest.mark.parametrize("instantiate", [torchvision, timm])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(instantiate, suffix, tmp_path) -> None:
    torch.manual_seed(1)
    donor = instantiate("resnet18")
    state = {k: v.contiguous() for k, v in donor.net.state_dict().items()}
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    torch.manual_seed(2)
    net = instantiate("resnet18", weights=str(path))
    assert all(torch.equal(a, b) for a, b in zip(donor.parameters(), net.parameters(), strict=True))


def test_error_messages_of_weights(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"backbone.weights=.*no.pth not found; set backbon"):
        read_weights(str(tmp_path / "no.pth"))
    bad = tmp_path / "bad.pth"
    bad.write_text("hello")
    with pytest.raises(CheckpointError, match=r"cannot read backbone.weights=.*only tensors"):
        read_weights(str(bad))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"is not a state dict of tensors"):
        read_weights(str(tmp_path / "list.pth"))
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"does not fit this backbone: .* missing or have another"
    ):
        torchvision(weights=str(tmp_path / "other.pth"))
    state = {**torchvision().net.state_dict(), "extra.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "extra.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected tensor\(s\), such as extra.weight"):
        torchvision(weights=str(tmp_path / "extra.pth"))


def test_unknown_names() -> None:
    with pytest.raises(
        ConfigError, match=r"name=reset18 not found in torchvision; did you mean 'resnet18'"
    ):
        torchvision("reset18")
    with pytest.raises(
        ConfigError, match=r"tag=IMAGENET1K_V9 not found for resnet18; did you mean"
    ):
        torchvision(tag="IMAGENET1K_V9")
    with pytest.raises(ConfigError, match=r"name=resnett18 not found in timm; did you mean"):
        timm("resnett18")
    assert nearest_timm("qqqqqq", ["a", "b"]) == "see timm.list_models() for all names"


def test_the_tanh_network_for_several_image_sizes() -> None:
    for size in (16, 28, 32):
        net = ConvNet(
            size=size, widths=[8, 16], kernel_size=5, activation="tanh", norm=True,
            channel_dropout=0.0, features=32, mean=[0.5] * 3, std=[0.5] * 3, lr_factor=1.0,
        )  # fmt: skip
        assert net(torch.zeros(2, 3, size, size)).shape == (2, 32)
        assert sum(isinstance(m, nn.Tanh) for m in net.modules()) == 3


def test_all_problems_of_the_convnet_settings() -> None:
    with pytest.raises(ConfigError) as caught:
        ConvNet(
            size=4, widths=[8, 8, 8], kernel_size=2, activation="tanh", norm=True,
            channel_dropout=0.0, features=None, mean=[0.5], std=[0.5, 0.5], lr_factor=1.0,
        )  # fmt: skip
    problems = caught.value.problems
    assert len(problems) == 3
    assert problems[0].startswith("backbone.kernel_size=2 must be odd; set backbone.kernel_size=3")
    assert problems[1].startswith("backbone.widths has 3 block(s), which does not fit backbone.siz")
    assert problems[2].startswith("backbone.mean has 1 channel(s), but backbone.std has 2; set")
    assert TransferModule is not None
