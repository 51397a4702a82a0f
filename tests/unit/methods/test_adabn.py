"""AdaBN: separate batch norm statistics per domain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers import config, weights
from methods import norms_of
from tl_lightning.backbones.vision import TorchvisionBackbone
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import load as loading
from tl_lightning.methods.components.domain_norm import (
    DomainBatchNorm,
    replace_norms,
    set_batch_domains,
)
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.types import DOMAINS, SplitKey


def layer(own_affine: bool = False) -> DomainBatchNorm:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.weight)
    return DomainBatchNorm(norm, own_affine)


def test_each_part_of_a_batch_is_normalised_with_its_domain_statistics() -> None:
    norm = layer().train()
    source, target = torch.randn(6, 3, 4, 4), 5 + 3 * torch.randn(4, 3, 4, 4)
    set_batch_domains([norm], [("source", 6), ("target", 4)])
    out = norm(torch.cat([source, target]))
    for part, piece in zip(out.split([6, 4]), (source, target), strict=True):
        expected = torch.nn.functional.batch_norm(
            piece, None, None, norm.source.weight, norm.source.bias, training=True
        )
        assert torch.allclose(part, expected, atol=1e-5)
    assert torch.allclose(norm.target.running_mean, 0.1 * target.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.source.running_mean, 0.1 * source.mean((0, 2, 3)), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
@pytest.mark.parametrize("own_affine", [False, True])
def test_layer_groups_are_unchanged(name: str, own_affine: bool) -> None:
    """Otherwise ``last:1`` of a densenet would be a norm, and ``layer_decay`` would change."""
    net = TorchvisionBackbone(
        name=name, pretrained=False, tag="DEFAULT", weights=None, size=None,
        grad_checkpointing=False, lr_factor=0.1, freeze_bn=False,
    )  # fmt: skip
    plain = [(group.name, len(group.modules)) for group in net.layer_groups()]
    assert replace_norms(net, lambda norm: DomainBatchNorm(norm, own_affine))
    assert [(group.name, len(group.modules)) for group in net.layer_groups()] == plain
    grouped = [id(p) for group in net.layer_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


def test_target_statistics_converge_to_those_of_the_target() -> None:
    """As in the paper's estimate over the whole target, up to the noise of the last batches."""
    norm = layer().train()
    g = torch.Generator().manual_seed(0)
    set_batch_domains([norm], [("target", 64)])
    for _ in range(100):
        norm(2 + 3 * torch.randn(64, 3, 4, 4, generator=g))
    assert torch.allclose(norm.target.running_mean, torch.full((3,), 2.0), atol=0.1)
    assert torch.allclose(norm.target.running_var, torch.full((3,), 9.0), atol=0.5)
    assert torch.equal(norm.source.running_mean, torch.zeros(3))


def test_scale_and_shift_are_shared() -> None:
    norm = layer()
    assert norm.target.weight is norm.source.weight
    assert len(list(norm.parameters())) == 2


@pytest.mark.parametrize(("name", "shared"), [("adabn", True), ("dsbn", False)])
def test_only_adabn_shares_scale_and_shift(name, shared) -> None:
    settings = config("model=domain_adaptation", f"method=[{name}]")
    net = building.build_module(validation.check(settings), ("a", "b"))
    assert norms_of(net)
    for norm in norms_of(net):
        for key in ("weight", "bias"):
            assert (getattr(norm.source, key) is getattr(norm.target, key)) is shared


@pytest.mark.slow
def test_evaluation_uses_the_statistics_of_the_domain(tmp_path) -> None:
    training.fit(config("model=domain_adaptation", "method=[adabn]"), tmp_path)
    net = loading.load(tmp_path / "checkpoints" / "last.ckpt")
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    batch = {"inputs": images, "index": torch.arange(5)}
    source, target = (net._evaluate(batch, SplitKey(name, "val"))["logits"] for name in DOMAINS)
    assert not torch.allclose(source, target)
    assert torch.equal(net(images), target)  # forward() assumes target images


@pytest.mark.slow
def test_source_training_equals_source_only_bit_for_bit(tmp_path) -> None:
    """Target batches only update the target statistics."""
    training.fit(config("model=source_only"), tmp_path / "plain")
    arguments = ["model=domain_adaptation", "method=[adabn]", "model.forward=separate"]
    training.fit(config(*arguments), tmp_path / "adabn")
    plain, adabn = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("plain", "adabn"))
    norms = {key.rpartition(".")[0] for key in plain if key.endswith("running_mean")}
    assert norms
    for key, value in plain.items():
        owner, _, name = key.rpartition(".")
        adabn_key = f"{owner}.source.{name}" if owner in norms else key
        assert torch.equal(value, adabn[adabn_key]), key


def test_error_messages() -> None:
    bare = nn.Sequential(nn.Linear(2, 2))
    assert replace_norms(bare, lambda norm: DomainBatchNorm(norm, False)) == 0
    settings = config("model=domain_adaptation", "method=[adabn]", "backbone.norm=false")
    message = r"method=\[adabn\] requires batch norm.*have none; use a backbone with batch norm"
    with pytest.raises(ConfigError, match=message):
        building.build_module(validation.check(settings), ("a", "b"))
    both = config("model=domain_adaptation", "method=[adabn,dsbn]")
    with pytest.raises(
        ConfigError, match=r"method=\[adabn,dsbn,relative_bn\]: each of.*use only one"
    ):
        building.build_module(validation.check(both), ("a", "b"))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_source_free_updates_only_target_statistics(tmp_path, optimizer) -> None:
    """Weight decay does not change any weight."""
    training.fit(config("model=source_only"), tmp_path / "first")
    settings = config(
        "model=source_free", "method=[adabn]", f"init={tmp_path / 'first'}",
        f"optimizer={optimizer}", "optimizer.lr=0.1", "optimizer.weight_decay=0.1",
    )  # fmt: skip
    training.fit(settings, tmp_path / "free")
    before = weights(tmp_path / "first" / "checkpoints" / "last.ckpt")
    after = weights(tmp_path / "free" / "checkpoints" / "last.ckpt")
    for key, value in before.items():
        is_statistic = key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        owner, _, leaf = key.rpartition(".")
        for new_key in (key, f"{owner}.source.{leaf}", f"{owner}.target.{leaf}"):
            if new_key in after:
                changed = not torch.equal(value, after[new_key])
                assert changed is (is_statistic and ".target." in new_key), new_key
