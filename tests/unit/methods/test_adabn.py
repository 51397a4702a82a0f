"""AdaBN: whose statistics normalise whom."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers import config, weights
from tl_lightning.backbones.vision import TorchvisionBackbone
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import load as loading
from tl_lightning.methods.components.domain_norm import DomainBatchNorm, attend, split_norms
from tl_lightning.training import build as building
from tl_lightning.training import fit as training


def layer(own_affine: bool = False) -> DomainBatchNorm:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.weight)
    return DomainBatchNorm(norm, own_affine)


def test_each_part_of_a_batch_is_normalised_by_its_own_domain() -> None:
    norm = layer().train()
    source, target = torch.randn(6, 3, 4, 4), 5 + 3 * torch.randn(4, 3, 4, 4)
    attend([norm], [("source", 6), ("target", 4)])
    out = norm(torch.cat([source, target]))
    for part, piece in zip(out.split([6, 4]), (source, target), strict=True):
        wanted = torch.nn.functional.batch_norm(
            piece, None, None, norm.source.weight, norm.source.bias, training=True
        )
        assert torch.allclose(part, wanted, atol=1e-5)
    assert torch.allclose(norm.target.running_mean, 0.1 * target.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.source.running_mean, 0.1 * source.mean((0, 2, 3)), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
@pytest.mark.parametrize("own_affine", [False, True])
def test_layer_groups_are_those_of_the_plain_network(name: str, own_affine: bool) -> None:
    """Else ``last:1`` of a densenet is its last norm, and ``layer_decay`` counts other layers."""
    net = TorchvisionBackbone(
        name=name, pretrained=False, tag="DEFAULT", weights=None, size=None,
        grad_checkpointing=False, lr_factor=0.1,
    )  # fmt: skip
    plain = [(group.name, len(group.modules)) for group in net.layer_groups()]
    assert split_norms(net, own_affine)
    assert [(group.name, len(group.modules)) for group in net.layer_groups()] == plain
    held = [id(p) for group in net.layer_groups() for p in group.parameters]
    assert sorted(held) == sorted(id(p) for p in net.parameters())


def test_statistics_of_many_batches_are_the_targets_own() -> None:
    """The paper's estimate over the whole target, up to the noise of the last batches."""
    norm = layer().train()
    g = torch.Generator().manual_seed(0)
    attend([norm], [("target", 64)])
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
def test_each_method_asks_for_its_own_kind_of_layer(name, shared) -> None:
    settings = config("model=domain_adaptation", f"adapter=[{name}]")
    net = building.build_module(validation.check(settings), ("a", "b"))
    assert net.norms
    for norm in net.norms:
        for knob in ("weight", "bias"):
            assert (getattr(norm.source, knob) is getattr(norm.target, knob)) is shared


def test_evaluation_uses_the_domain_that_was_named(tmp_path) -> None:
    training.fit(config("model=domain_adaptation", "adapter=[adabn]"), tmp_path)
    net = loading.load(tmp_path / "checkpoints" / "last.ckpt")
    pictures = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    batch = {"inputs": pictures, "index": torch.arange(5)}
    by_role = {role: net._evaluate(batch, role, "val")["logits"] for role in ("source", "target")}
    assert not torch.allclose(by_role["source"], by_role["target"])
    assert torch.equal(net(pictures), by_role["target"])  # a stranger's picture is the target's


def test_source_training_is_source_only_bit_for_bit(tmp_path) -> None:
    """The target's batches move its own statistics and nothing else."""
    training.fit(config("model=source_only"), tmp_path / "plain")
    arguments = ["model=domain_adaptation", "adapter=[adabn]", "model.forward=separate"]
    training.fit(config(*arguments), tmp_path / "adabn")
    plain, own = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("plain", "adabn"))
    norms = {key.rpartition(".")[0] for key in plain if key.endswith("running_mean")}
    assert norms
    for key, value in plain.items():
        owner, _, name = key.rpartition(".")
        theirs = f"{owner}.source.{name}" if owner in norms else key
        assert torch.equal(value, own[theirs]), key


def test_words() -> None:
    bare = nn.Sequential(nn.Linear(2, 2))
    assert split_norms(bare, own_affine=False) == 0
    settings = config("model=domain_adaptation", "adapter=[adabn]", "backbone.norm=false")
    with pytest.raises(ConfigError, match=r"adapter=\[adabn\] changes batch norm.*have none; type"):
        building.build_module(validation.check(settings), ("a", "b"))
    both = config("model=domain_adaptation", "adapter=[adabn,dsbn]")
    with pytest.raises(ConfigError, match=r"adapter=\[adabn,dsbn\]: both replace"):
        building.build_module(validation.check(both), ("a", "b"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_the_source_statistics_move_and_no_weight_decays(tmp_path, optimizer) -> None:
    training.fit(config("model=source_only"), tmp_path / "first")
    settings = config(
        "model=source_free", "adapter=[adabn]", f"init={tmp_path / 'first'}",
        f"optimizer={optimizer}", "optimizer.lr=0.1", "optimizer.weight_decay=0.1",
    )  # fmt: skip
    training.fit(settings, tmp_path / "free")
    before = weights(tmp_path / "first" / "checkpoints" / "last.ckpt")
    after = weights(tmp_path / "free" / "checkpoints" / "last.ckpt")
    for key, value in before.items():
        moves = key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        owner, _, leaf = key.rpartition(".")
        for place in (key, f"{owner}.source.{leaf}", f"{owner}.target.{leaf}"):
            if place in after:
                moved = not torch.equal(value, after[place])
                assert moved is (moves and ".target." in place), place
