"""Batch norm of a pretrained network that keeps its statistics while the network is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.backbones.vision import TimmBackbone, TorchvisionBackbone
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.training import build as building

SETTINGS = {
    "pretrained": False, "weights": None, "size": None, "grad_checkpointing": False,
    "lr_factor": 0.1,
}  # fmt: skip


def network(kind: str, freeze_bn):
    if kind == "timm":
        return TimmBackbone(name="resnet10t", freeze_bn=freeze_bn, **SETTINGS)
    return TorchvisionBackbone(name="resnet18", tag="DEFAULT", freeze_bn=freeze_bn, **SETTINGS)


def step(net) -> None:
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(torch.randn(2, 3, 64, 64)).square().sum().backward()
    optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchvision", "timm"])
@pytest.mark.parametrize("freeze_bn", [False, True, "all"])
def test_what_a_step_changes(kind, freeze_bn) -> None:
    net = network(kind, freeze_bn).train()
    before = copy.deepcopy(net.state_dict())
    step(net)
    norms = {f"{n}." for n, m in net.named_modules() if isinstance(m, _BatchNorm)}
    changed = {"statistics": False, "affine": False, "others": False}
    for name, value in net.state_dict().items():
        kind_of = "others"
        if any(name.startswith(norm) for norm in norms):
            kind_of = "affine" if name.endswith(("weight", "bias")) else "statistics"
        changed[kind_of] |= not torch.equal(value, before[name])
    assert changed == {
        "statistics": not freeze_bn, "affine": freeze_bn != "all", "others": True,
    }  # fmt: skip


def test_output_does_not_depend_on_the_batch() -> None:
    """Also after the modes of the whole model have been set, as a phase does."""
    net = network("torchvision", True).eval().train()
    images = torch.randn(4, 3, 64, 64)
    assert torch.allclose(net(images)[:1], net(images[:1]), atol=1e-5)
    assert net.training
    assert not torch.allclose(*(network("torchvision", False).train()(x)[:1]
                                for x in (images, images[:2])), atol=1e-3)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("model=fine_tuning",), True),
        (("model=dann",), True),
        (("model=fine_tuning", "backbone.pretrained=false"), False),
        (("model=fine_tuning", "backbone.freeze_bn=all"), "all"),
        (("model=joint_bn",), False),
        (("model=domain_adaptation", "method=[adabn]"), False),
        (("model=domain_adaptation", "method=[dsbn,dann]"), False),
    ],
)
def test_auto_keeps_pretrained_statistics(overrides, expected) -> None:
    checked = validation.check(compose(["backbone=mobilenet_v2", *overrides]))
    assert checked.backbone.params["freeze_bn"] == expected


def test_phases_keep_the_statistics() -> None:
    checked = validation.check(compose([
        "backbone=mobilenet_v2", "backbone.pretrained=false", "backbone.freeze_bn=true",
        "model=fine_tuning", "phases.steps=[{from:0,train:[head,backbone]}]",
    ]))  # fmt: skip
    net = building.build_module(checked, ("a", "b"))
    net.enter_phase(0, [])
    norms = [m for m in net.backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert net.backbone.training


def test_methods_that_need_batch_statistics_refuse_it() -> None:
    for overrides in (
        ["model=domain_adaptation", "method=[adabn]"],
        ["model=source_free", "method=[tent]", "init=/a/run"],
    ):
        settings = compose(["backbone=mobilenet_v2", "backbone.freeze_bn=true", *overrides])
        with pytest.raises(ConfigError, match=r"backbone.freeze_bn=true freezes; set backb"):
            validation.check(settings)


def test_wrong_values_are_reported() -> None:
    with pytest.raises(ConfigError, match=r"backbone.freeze_bn=yes_please is not"):
        validation.check(compose(["backbone=mobilenet_v2", "backbone.freeze_bn=yes_please"]))
