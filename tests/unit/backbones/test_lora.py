"""LoRA: initial outputs, trainable parameters, checkpoints and error messages."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from helpers import config, evaluated, plain_config, same, weights
from tl_lightning.backbones.lora import LoRA
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

#: A tiny transformer of timm with random weights.
VIT = (
    "backbone=timm", "backbone.name=test_vit", "backbone.pretrained=false", "backbone.size=32",
    "backbone.lr_factor=1", "model=source_only", "trainer.max_epochs=1", "baselines=[]",
)  # fmt: skip


def vit(*overrides: str) -> dict[str, Any]:
    """Return the configuration of a tiny run with a transformer."""
    plain = config()
    small = ("data.batch_size=4", "data.steps_per_epoch=2", "data.eval_batch_size=64")
    result = plain_config(*VIT, *small, *overrides)
    result["trainer"] = {**plain["trainer"], "max_epochs": result["trainer"]["max_epochs"]}
    for key in ("channels_last", "report", "checkpointing"):
        result[key] = plain[key]
    return result


def net(*overrides: str) -> Any:
    return building.build_module(validation.check(vit(*overrides)), tuple("0123456789"))


def images() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 32, 32), generator=g, dtype=torch.uint8)


def test_rank_zero_leaves_the_backbone_unchanged() -> None:
    model = net()
    assert not any("lora" in name for name in model.state_dict())
    assert all(p.requires_grad for p in model.parameters())


def test_outputs_are_initially_unchanged_and_only_lora_is_trainable() -> None:
    pytest.importorskip("peft")
    plain, lora = net().eval(), net("backbone.lora.rank=2").eval()
    assert torch.equal(plain(images()), lora(images()))
    trainable = {n: p for n, p in lora.backbone.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    # qkv (D -> 3 D) and proj (D -> D) of every block: rank times (in_features + out_features).
    blocks = [m for n, m in plain.backbone.named_modules() if n.endswith((".qkv", ".proj"))]
    linear = [m for m in blocks if isinstance(m, torch.nn.Linear)]
    assert sum(p.numel() for p in trainable.values()) == sum(
        2 * (m.in_features + m.out_features) for m in linear
    )


def test_formula() -> None:
    pytest.importorskip("peft")
    model = net(
        "backbone.lora.rank=2", "backbone.lora.alpha=6", "backbone.lora.targets=[attn.proj]"
    )
    layer = next(m for n, m in model.backbone.named_modules() if n.endswith("attn.proj"))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_()
    x = torch.randn(3, a.shape[1])
    expected = layer.base_layer(x) + 6 / 2 * x @ a.T @ b.T
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.slow
def test_a_run_trains_only_lora_and_head_and_its_checkpoint_loads(tmp_path) -> None:
    pytest.importorskip("peft")
    settings = vit("backbone.lora.rank=2", "regularizer=[l2_sp,l1]")
    before = building.build_module(validation.check(settings), tuple("0123456789")).state_dict()
    before = {k: v.clone() for k, v in before.items()}
    report = training.fit(settings, tmp_path)
    path = tmp_path / report["selection"]["checkpoint"]
    after = weights(path)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert any("lora_B" in name for name in changed)
    assert all("lora_" in name or name.startswith("task.") for name in changed), changed
    assert same(loading.load(path).state_dict(), after)
    counts = report["parameters"]
    trainable = sum(
        v.numel() for k, v in after.items() if "lora_" in k or k.startswith("task.head")
    )
    assert counts["learning"] == trainable
    assert counts["all"] > 3 * trainable
    assert evaluation.evaluate(path, None, None)["metrics"] == evaluated(report)


def test_lora_parameters_are_in_exactly_one_layer_group() -> None:
    pytest.importorskip("peft")
    backbone = net("backbone.lora.rank=2").backbone
    grouped = [id(p) for group in backbone.layer_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in backbone.parameters())


@pytest.mark.slow
def test_resume_equals_uninterrupted_run(tmp_path) -> None:
    pytest.importorskip("peft")
    settings = ("backbone.lora.rank=2", "backbone.lora.dropout=0.3", "scheduler=constant")
    for run, epochs in (("whole", [2]), ("resumed", [1, 2])):
        for max_epochs in epochs:
            cfg = vit(*settings, f"trainer.max_epochs={max_epochs}", "resume=auto")
            training.fit(cfg, tmp_path / run)
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "resumed" / last))


def test_error_without_peft(monkeypatch) -> None:
    original = builtins.__import__

    def missing(name, *arguments, **more):
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return original(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    message = r"requires the package peft .*; run pip install 'tl_lightning\[lora\]', or set"
    with pytest.raises(ConfigError, match=message):
        net("backbone.lora.rank=2")


def test_error_for_unknown_targets() -> None:
    pytest.importorskip("peft")
    message = r"targets=\['query'\] does not match any linear layer .*qkv.*; set backbone.lora.t"
    with pytest.raises(ConfigError, match=message):
        net("backbone.lora.rank=2", "backbone.lora.targets=[query]")


def test_error_for_a_network_with_batch_norm() -> None:
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match=r"rank=2 is not supported with batch norm.*transformer"):
        net("backbone.lora.rank=2", "backbone.name=resnet10t", "backbone.lora.targets=[conv]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.lora.rank=-1", "backbone.lora.rank=-1 must be at least 0; set"),
        ("backbone.lora.alpha=0", "backbone.lora.alpha=0 must be positive; set"),
        ("backbone.lora.dropout=1", "backbone.lora.dropout=1 must be in [0, 1); set"),
        ("backbone.lora.targets=[]", "backbone.lora.targets=[] must not be empty; set"),
        ("backbone.lora.rank=two", "backbone.lora.rank=two is not an integer"),
    ],
)
def test_error_messages(override, message) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(vit(override))
    assert message in str(caught.value)


def test_error_for_a_frozen_backbone() -> None:
    with pytest.raises(ConfigError, match=r"model=feature_extraction freezes .*lora.rank=2"):
        validation.check(vit("backbone.lora.rank=2", "model=feature_extraction"))


def test_the_class_checks_its_parameters() -> None:
    with pytest.raises(ConfigError, match=r"backbone.lora.rank=-1 must be at least 0"):
        LoRA(rank=-1, alpha=1, dropout=0, targets=["qkv"])
