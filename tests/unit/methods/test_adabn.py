"""AdaBN: separate batch norm statistics per domain."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers import config, same, weights
from methods import norms_of
from tl_lightning.backbones.vision import TorchvisionBackbone
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation import load as loading
from tl_lightning.methods.components.domain_norm import (
    DomainBatchNorm,
    assign_domains,
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


#: The source domain of each sample of the source, in no order, and the size of the target's part.
NAMED, TARGETS = torch.tensor([2, 0, 2, 1, 0, 1, 2, 2]), 3
SOURCES = "data.source.domain=[plain,inverted,tilted]"


def several(own_affine: bool = False, sources: int = 3) -> DomainBatchNorm:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.weight)
    return DomainBatchNorm(norm, own_affine, sources)


def given(norm: DomainBatchNorm, named: torch.Tensor, targets: int = TARGETS) -> None:
    """Tell the layer that samples of these source domains come first, then those of the target."""
    parts = [("source", len(named)), ("target", targets)][: 2 if targets else 1]
    assign_domains(norm, parts, [named, None][: len(parts)])


def samples(count: int, seed: int = 0) -> torch.Tensor:
    return 1 + 2 * torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_each_source_has_the_statistics_of_its_own_samples() -> None:
    """As batch norms that see nothing else; the outputs stay in the order of the samples."""
    norm = several().train()
    plain = [copy.deepcopy(norm.source[0]).train() for _ in range(4)]
    for step in range(3):
        x = samples(len(NAMED) + TARGETS, seed=step)
        given(norm, NAMED)
        out = norm(x)
        for number in range(3):
            rows = (number == NAMED).nonzero().squeeze(1)
            torch.testing.assert_close(out[rows], plain[number](x[rows]))
        torch.testing.assert_close(out[len(NAMED) :], plain[3](x[len(NAMED) :]))
    for own, expected in zip([*norm.source, norm.target], plain, strict=True):
        for key, value in own.named_buffers():
            torch.testing.assert_close(value, expected.get_buffer(key), msg=key)
    means = [layer.running_mean for layer in norm.source]
    assert not torch.equal(means[0], means[1])


def test_gradients_are_those_of_separate_batch_norms() -> None:
    norm, x = several().train(), samples(len(NAMED))
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    given(norm, NAMED, targets=0)
    norm(found).pow(3).sum().backward()
    plain = [copy.deepcopy(norm.source[0]) for _ in range(3)]
    for number in range(3):
        plain[number](expected[number == NAMED]).pow(3).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [7, 2, 5, 0, 3, 6, 1, 4], [3, 5]])
def test_in_evaluation_each_sample_passes_its_own_layer_in_any_order(order) -> None:
    norm = several().eval()
    for number, own in enumerate(norm.source):
        own.running_mean.fill_(float(number))
    x, named = samples(len(NAMED))[order], NAMED[order]
    given(norm, named, targets=0)
    for row, (one, number) in enumerate(zip(x, named, strict=True)):
        torch.testing.assert_close(norm(x)[row], norm.source[number](one[None])[0])


def test_output_of_the_target_does_not_depend_on_the_sources() -> None:
    """Nor does a sample of one source depend on the other sources."""
    outs = []
    for factor in (1.0, 5.0):
        norm, x = several().train(), samples(len(NAMED) + TARGETS)
        x[: len(NAMED)][NAMED > 0] *= factor
        given(norm, NAMED)
        outs.append(norm(x))
    assert torch.equal(outs[0][len(NAMED) :], outs[1][len(NAMED) :])
    assert torch.equal(outs[0][: len(NAMED)][NAMED == 0], outs[1][: len(NAMED)][NAMED == 0])
    assert not torch.equal(outs[0], outs[1])


def test_a_source_that_is_absent_from_the_batch_is_unchanged() -> None:
    norm = several().train()
    before = copy.deepcopy(norm.source[1].state_dict())
    named = torch.tensor([2, 0, 0, 2])
    given(norm, named, targets=0)
    norm(samples(4))
    assert all(torch.equal(value, before[key]) for key, value in norm.source[1].named_buffers())
    assert int(norm.source[0].num_batches_tracked) == 1


def test_a_source_with_one_value_per_channel_uses_its_running_statistics() -> None:
    """Batch norm refuses to normalise one value; the step before and the one after count."""
    norm = DomainBatchNorm(nn.BatchNorm1d(3), False, 2).train()
    x, named = torch.randn(5, 3), torch.tensor([0, 1, 0, 0, 1])
    given(norm, named, targets=0)
    norm(x)
    known = copy.deepcopy(norm.source[1])
    named = torch.tensor([0, 0, 1, 0, 0])
    given(norm, named, targets=0)
    out = norm(x)
    torch.testing.assert_close(out[2:3], known.eval()(x[2:3]))
    assert torch.equal(norm.source[1].running_mean, known.running_mean)
    assert int(norm.source[1].num_batches_tracked) == 1
    assert int(norm.source[0].num_batches_tracked) == 2
    given(norm, torch.tensor([1, 1, 1, 0, 0]), targets=0)
    norm(x)
    assert int(norm.source[1].num_batches_tracked) == 2


def test_one_image_of_a_source_has_statistics_over_its_pixels() -> None:
    norm = several(sources=2).train()
    given(norm, torch.tensor([0, 1, 0]), targets=0)
    norm(samples(3))
    assert int(norm.source[1].num_batches_tracked) == 1


def test_statistics_of_frozen_layers_do_not_change() -> None:
    norm = several().eval()
    before = copy.deepcopy(norm.state_dict())
    given(norm, NAMED)
    norm(samples(len(NAMED) + TARGETS))
    assert same(before, norm.state_dict())


def test_names_of_the_weights_with_one_source_are_those_without_the_setting() -> None:
    names = {name.partition(".")[0] for name in layer().state_dict()}
    assert names == {"source", "target"}
    assert set(layer().state_dict()) == set(several(sources=1).state_dict())
    assert "source.2.running_mean" in several().state_dict()


@pytest.mark.parametrize("own_affine", [False, True])
def test_all_sources_start_from_the_layer_that_is_replaced(own_affine) -> None:
    norm = several(own_affine)
    for own in norm.source:
        for key, value in norm.target.state_dict().items():
            assert torch.equal(value, own.state_dict()[key])
        assert (own.weight is norm.target.weight) is not own_affine
    assert len(list(norm.parameters())) == (8 if own_affine else 2)


@pytest.mark.parametrize("forward", ["joint", "separate"])
def test_training_passes_each_source_to_its_own_layer(forward) -> None:
    """A source whose images change leaves the statistics of the others as they are."""
    found = []
    for inverted in (False, True):
        net, batch = per_source("adabn", f"model.forward={forward}")
        if inverted:
            own = batch["source"]["domain"] == 1
            batch["source"]["inputs"][own] = 255 - batch["source"]["inputs"][own]
        net.train().views(batch)
        found.append(norms_of(net)[0])
    for number, unchanged in enumerate((True, False, True)):
        first, second = (norm.source[number].running_mean for norm in found)
        assert first.any()
        assert torch.equal(first, second) is unchanged
    assert torch.equal(found[0].target.running_mean, found[1].target.running_mean)


def test_joint_and_separate_batches_are_equal_in_evaluation() -> None:
    views = []
    for forward in ("joint", "separate"):
        net, batch = per_source("adabn", f"model.forward={forward}")
        views.append(net.eval().views(batch))
    for domain in DOMAINS:
        torch.testing.assert_close(views[0][domain].logits, views[1][domain].logits)


def test_evaluation_of_the_source_uses_the_layers_of_its_domains() -> None:
    net, batch = per_source("adabn")
    key, source = SplitKey("source", "val"), batch["source"]
    found = net.eval()._evaluate(source, key)["logits"]
    for domain in range(3):
        net, _ = per_source("adabn")
        for norm in norms_of(net):  # all samples pass the layers of this domain
            for other in norm.source:
                other.load_state_dict(norm.source[domain].state_dict())
        of_one = net.eval()._evaluate(source, key)["logits"]
        own = source["domain"] == domain
        torch.testing.assert_close(found[own], of_one[own])
        assert not torch.allclose(found[~own], of_one[~own])


def per_source(name: str, *overrides: str):
    """Return a model with layers for three sources that differ, and a batch for it."""
    settings = config(
        "model=domain_adaptation", f"method=[{name}]", f"method.{name}.per_source=true",
        f"method.{name}.num_sources=3", SOURCES, *overrides,
    )  # fmt: skip
    net = building.build_module(validation.check(settings), tuple(map(str, range(10))))
    for norm in norms_of(net):
        for number, own in enumerate(norm.source):
            own.running_var.fill_(1.0 + number)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 6, 3, 16, 16), generator=g, dtype=torch.uint8)
    named, index = torch.tensor([2, 0, 1, 1, 0, 2]), torch.arange(6)
    source = {"inputs": images[0], "labels": index, "index": index, "domain": named}
    return net, {"source": source, "target": {"inputs": images[1], "index": index}}


def test_samples_of_the_source_need_their_domain_and_those_of_the_target_do_not() -> None:
    net, batch = per_source("adabn")
    assert net(batch["target"]["inputs"]).shape == (6, 10)
    del batch["source"]["domain"]
    message = r"per_source=true .*has 3 source domains, but a batch of the source does not say .*"
    with pytest.raises(DataError, match=message + r'pass it as \{"inputs": ..., "domain": <ind'):
        net.views(batch)


def test_words_of_wrong_domains() -> None:
    norm = several()
    given(norm, torch.tensor([0, 3, 1]), targets=0)
    with pytest.raises(
        DataError, match=r"has the domain indices \[0, 1, 3\]; pass indices from 0 "
    ):
        norm(samples(3))
    given(norm, torch.tensor([0, 1]), targets=0)
    with pytest.raises(
        DataError, match=r"given for 2 samples, but a batch norm got 3 rows; pass an"
    ):
        norm(samples(3))
