"""LoRA: the network starts as it was, only the small matrices learn, a checkpoint rebuilds it."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from helpers import config, evaluated, same, weights
from tl_lightning.backbones.lora import LoRA
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

#: timm's smallest transformer, without a download.
VIT = (
    "backbone=timm", "backbone.name=test_vit", "backbone.pretrained=false", "backbone.size=32",
    "backbone.lr_factor=1", "model=source_only", "trainer.max_epochs=1", "bracket=[]",
)  # fmt: skip


def vit(*overrides: str) -> dict[str, Any]:
    """Return a tiny run on a transformer."""
    from omegaconf import OmegaConf

    from tl_lightning.config.compose import compose

    plain = config()
    small = ("data.batch_size=4", "data.steps_per_epoch=2", "data.eval_batch_size=64")
    found: Any = OmegaConf.to_container(compose([*VIT, *small, *overrides]), resolve=True)
    found["trainer"] = {**plain["trainer"], "max_epochs": found["trainer"]["max_epochs"]}
    for key in ("channels_last", "report", "checkpoint"):
        found[key] = plain[key]
    return found


def net(*overrides: str) -> Any:
    return building.build_module(validation.check(vit(*overrides)), tuple("0123456789"))


def pictures() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 32, 32), generator=g, dtype=torch.uint8)


def test_rank_0_is_the_backbone_as_it_was() -> None:
    made = net()
    assert not any("lora" in name for name in made.state_dict())
    assert all(p.requires_grad for p in made.parameters())


def test_it_starts_as_the_network_was_and_only_its_matrices_learn() -> None:
    pytest.importorskip("peft")
    plain, made = net().eval(), net("backbone.lora.rank=2").eval()
    assert torch.equal(plain(pictures()), made(pictures()))
    learning = {n: p for n, p in made.backbone.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    # qkv (D -> 3 D) and proj (D -> D) of every block: rank times what goes in and out.
    blocks = [m for n, m in plain.backbone.named_modules() if n.endswith((".qkv", ".proj"))]
    linear = [m for m in blocks if isinstance(m, torch.nn.Linear)]
    assert sum(p.numel() for p in learning.values()) == sum(
        2 * (m.in_features + m.out_features) for m in linear
    )


def test_its_layers_compute_their_formula() -> None:
    pytest.importorskip("peft")
    made = net("backbone.lora.rank=2", "backbone.lora.alpha=6", "backbone.lora.targets=[attn.proj]")
    layer = next(m for n, m in made.backbone.named_modules() if n.endswith("attn.proj"))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_()
    x = torch.randn(3, a.shape[1])
    want = layer.base_layer(x) + 6 / 2 * x @ a.T @ b.T
    assert torch.allclose(layer(x), want, atol=1e-5)


def test_a_run_moves_nothing_else_and_its_checkpoint_loads(tmp_path) -> None:
    pytest.importorskip("peft")
    settings = vit("backbone.lora.rank=2", "regularizer=[l2_sp,l1]")
    before = building.build_module(validation.check(settings), tuple("0123456789")).state_dict()
    before = {k: v.clone() for k, v in before.items()}
    report = training.fit(settings, tmp_path)
    place = tmp_path / report["selection"]["checkpoint"]
    after = weights(place)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name or name.startswith("task.") for name in moved), moved
    assert same(loading.load(place).state_dict(), after)
    counts = report["parameters"]
    learning = sum(v.numel() for k, v in after.items() if "lora_" in k or k.startswith("task.head"))
    assert counts["learning"] == learning
    assert counts["all"] > 3 * learning
    assert evaluation.evaluate(place, None, None)["metrics"] == evaluated(report)


def test_layer_groups_hold_the_matrices_once() -> None:
    pytest.importorskip("peft")
    made = net("backbone.lora.rank=2").backbone
    grouped = [id(p) for group in made.layer_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in made.parameters())


def test_resumed_equals_uninterrupted(tmp_path) -> None:
    pytest.importorskip("peft")
    settings = ("backbone.lora.rank=2", "backbone.lora.dropout=0.3", "scheduler=constant")
    for run, ends in (("whole", [2]), ("cut", [1, 2])):
        for count in ends:
            cfg = vit(*settings, f"trainer.max_epochs={count}", "resume=auto")
            training.fit(cfg, tmp_path / run)
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "cut" / last))


def test_without_peft_it_says_what_to_type(monkeypatch) -> None:
    honest = builtins.__import__

    def missing(name, *arguments, **more):
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return honest(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"needs the package peft .*'tl_lightning\[lora\]'"):
        net("backbone.lora.rank=2")


def test_targets_that_are_no_layers() -> None:
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match=r"targets=\['query'\] are no linear .*which has .*qkv"):
        net("backbone.lora.rank=2", "backbone.lora.targets=[query]")


def test_a_network_with_batch_norm() -> None:
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match="its batch norm would move on; LoRA is for transformers"):
        net("backbone.lora.rank=2", "backbone.name=resnet10t", "backbone.lora.targets=[conv]")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("backbone.lora.rank=-1", "backbone.lora.rank=-1 is below 0; type"),
        ("backbone.lora.alpha=0", "backbone.lora.alpha=0 is not above 0; type"),
        ("backbone.lora.dropout=1", "backbone.lora.dropout=1 is not in [0, 1); type"),
        ("backbone.lora.targets=[]", "backbone.lora.targets=[] names no layer; type"),
        ("backbone.lora.rank=two", "backbone.lora.rank=two is not a whole number"),
    ],
)
def test_words_of_faults(override, words) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(vit(override))
    assert words in str(caught.value)


def test_a_frozen_backbone_takes_none() -> None:
    with pytest.raises(ConfigError, match=r"model=feature_extraction freezes .*lora.rank=2"):
        validation.check(vit("backbone.lora.rank=2", "model=feature_extraction"))


def test_the_class_refuses_them_too() -> None:
    with pytest.raises(ConfigError, match=r"backbone.lora.rank=-1 is below 0"):
        LoRA(rank=-1, alpha=1, dropout=0, targets=["qkv"])
