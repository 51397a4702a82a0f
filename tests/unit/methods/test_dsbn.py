"""DSBN: separate batch norm statistics, scale and shift per domain."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers import config
from methods import norms_of
from tl_lightning.backbones.activation_checkpointing import recomputed
from tl_lightning.config.validation import check as validation
from tl_lightning.evaluation import load as loading
from tl_lightning.layers import Part
from tl_lightning.methods.components.domain_norm import (
    DomainBatchNorm,
    assign_domains,
    set_batch_domains,
    state_of_domain,
)
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.training.feature_plan import weights_digest
from tl_lightning.types import DOMAINS, LayerGroup


def test_each_domain_learns_its_own_scale() -> None:
    norm = DomainBatchNorm(nn.BatchNorm1d(3), own_affine=True).train()
    set_batch_domains([norm], [("source", 6), ("target", 4)])
    norm(torch.randn(10, 3))[:6].square().sum().backward()
    assert norm.source.weight.grad.abs().sum() > 0
    assert norm.target.weight.grad.abs().sum() == 0
    set_batch_domains([norm], [("target", 4)])
    norm(torch.randn(4, 3)).square().sum().backward()
    assert norm.target.weight.grad.abs().sum() > 0


def test_both_domains_start_from_the_pretrained_layer() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm1d(3)
    nn.init.uniform_(plain.weight)
    plain.running_mean.uniform_()
    norm = DomainBatchNorm(plain, own_affine=True)
    for key, value in norm.source.state_dict().items():
        assert torch.equal(value, norm.target.state_dict()[key])
    assert norm.target.weight is not norm.source.weight


@pytest.mark.slow
def test_domains_diverge_when_combined_with_another_method(tmp_path) -> None:
    arguments = ["model=domain_adaptation", "method=[dsbn,self_training]"]
    training.fit(config(*arguments, "method.self_training.threshold=0"), tmp_path)
    net = loading.load(tmp_path / "checkpoints" / "last.ckpt")
    assert norms_of(net)
    for norm in norms_of(net):
        assert not torch.equal(norm.source.running_mean, norm.target.running_mean)
    assert any(not torch.equal(norm.source.weight, norm.target.weight) for norm in norms_of(net))


@pytest.mark.parametrize("second", [[("target", 4)], [("source", 2), ("target", 2)]])
def test_activation_checkpointing_restores_the_domains(second) -> None:
    """Another batch has passed in between: the other domain's, or the teacher's."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), DomainBatchNorm(nn.BatchNorm1d(3), own_affine=True))
    nn.init.uniform_(net[1].target.weight)
    plain, checkpointed = net, copy.deepcopy(net)
    x = torch.randn(2, 4, 3)
    for model, recompute in ((plain, False), (checkpointed, True)):
        group = LayerGroup("all", (model,), tuple(model.parameters()), model)
        total = 0.0
        for parts, part in zip(([("source", 4)], second), x, strict=True):
            set_batch_domains([model[1]], parts)
            out = recomputed([group], part) if recompute else model(part)
            total = total + out.pow(3).sum()
        total.backward()
        assert model[1].parts == [Part(*part) for part in second]
    for (name, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    for (name, p), q in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(p, q), name


def with_teacher():
    """Return a model with a strong view and a teacher, and a batch for it."""
    settings = config("model=domain_adaptation", "method=[dsbn,self_training]")
    net = building.build_module(validation.check(settings), tuple(map(str, range(10)))).train()
    g = torch.Generator().manual_seed(0)
    first, second, third = (
        torch.randint(0, 256, (4, 3, 16, 16), generator=g, dtype=torch.uint8) for _ in range(3)
    )
    index = torch.arange(4)
    return net, {
        "source": {"inputs": first, "labels": index, "index": index},
        "target": {"inputs": second, "strong": third, "index": index},
    }


def test_a_strong_view_is_normalised_with_target_statistics() -> None:
    means = {"source": [], "target": []}
    for inverted in (False, True):
        net, batch = with_teacher()
        if inverted:
            batch["target"]["strong"] = 255 - batch["target"]["strong"]
        net.views(batch)
        for domain, values in means.items():
            own = [norm.get_submodule(domain).running_mean for norm in norms_of(net)]
            values.append(torch.cat(own).clone())
    assert torch.equal(*means["source"])
    assert not torch.equal(*means["target"])


def test_the_teacher_uses_target_statistics() -> None:
    net, batch = with_teacher()
    before = net.views(batch)["target"].teacher_logits
    own = [part for part in net.teacher.modules() if isinstance(part, DomainBatchNorm)]
    assert own
    for domain, same in (("source", True), ("target", False)):
        for norm in own:
            norm.get_submodule(domain).running_mean.add_(1.0)
        assert torch.equal(net.views(batch)["target"].teacher_logits, before) is same


def per_source(*methods: str, sources: int = 2):
    """Return a model with layers for each source, and a batch for it."""
    settings = config(
        "model=domain_adaptation", f"method=[{','.join(methods)}]", "method.dsbn.per_source=true",
        f"method.dsbn.num_sources={sources}", "data.source.domain=[plain,inverted]",
        "model.forward=separate",
    )  # fmt: skip
    net = building.build_module(validation.check(settings), tuple(map(str, range(10)))).train()
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 4, 3, 16, 16), generator=g, dtype=torch.uint8)
    index, named = torch.arange(4), torch.tensor([1, 0, 0, 1])
    source = {"inputs": images[0], "labels": index, "index": index, "domain": named}
    return net, {"source": source, "target": {"inputs": images[1], "index": index}}


def test_each_source_learns_its_own_scale() -> None:
    """A source that is not in the batch has no gradient, which DDP is told of."""
    net, batch = per_source("dsbn", sources=3)
    net.views(batch)["source"].logits[batch["source"]["domain"] == 0].square().sum().backward()
    for norm in norms_of(net):
        assert norm.source[0].weight.grad.abs().sum() > 0
        assert not norm.source[1].weight.grad.any()
        assert norm.source[2].weight.grad is None
        assert norm.target.weight.grad is None
    assert all(method.find_unused_parameters for method in net.methods.values())


def test_activation_checkpointing_restores_the_source_domains() -> None:
    """Another batch has passed in between, with its sources in another order."""
    torch.manual_seed(0)
    norm = DomainBatchNorm(nn.BatchNorm1d(3), own_affine=True, num_sources=2)
    plain = nn.Sequential(nn.Linear(3, 3), norm)
    for own in (*norm.source, norm.target):
        nn.init.uniform_(own.weight)
    checkpointed, x = copy.deepcopy(plain), torch.randn(2, 4, 3)
    for model, recompute in ((plain, False), (checkpointed, True)):
        group = LayerGroup("all", (model,), tuple(model.parameters()), model)
        total = 0.0
        for named, part in zip(([0, 1, 1, 0], [1, 1, 0, 0]), x, strict=True):
            assign_domains(model, [("source", 4)], [torch.tensor(named)])
            out = recomputed([group], part) if recompute else model(part)
            total = total + out.pow(3).sum()
        total.backward()
    for (name, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad), name
    for (name, p), q in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(p, q), name


def test_the_teacher_of_the_source_uses_the_layers_of_its_domains() -> None:
    net, batch = per_source("dsbn", "adda")
    net.teacher.before_step(net.backbone, net.task, 1.0)
    before = net.views(batch)["source"].teacher_logits
    own = [part for part in net.teacher.modules() if isinstance(part, DomainBatchNorm)]
    assert own
    for norm in own:
        norm.source[1].running_mean.add_(1.0)
    after, first = net.views(batch)["source"].teacher_logits, batch["source"]["domain"] == 0
    assert torch.equal(before[first], after[first])
    assert not torch.allclose(before[~first], after[~first])


def test_the_state_of_the_source_is_that_of_all_its_domains() -> None:
    """Stored features depend on all of them, and a head is fitted for all of them."""
    net, _ = per_source("dsbn")
    plain = config("model=source_only")
    names = list(building.build_module(validation.check(plain), "ab").backbone.state_dict())
    norm = norms_of(net)[0]
    found = list(state_of_domain(net.backbone, "source"))
    assert sorted({name for name, _ in found}) == sorted(names)
    for own in norm.source:
        assert sum(value.data_ptr() == own.weight.data_ptr() for _, value in found) == 1
    assert sorted(name for name, _ in state_of_domain(net.backbone, "target")) == sorted(names)
    digests = []
    for change in (0.0, 1.0):
        norm.source[1].running_mean.add_(change)
        digests.append([weights_digest(net, (), domain) for domain in DOMAINS])
    assert digests[0][0] != digests[1][0]
    assert digests[0][1] == digests[1][1]
