"""What every method in conf/adapter must keep, found by looking there: a new one is picked up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import Identity

from conftest import REPO
from helpers import config, evaluated, same, stopped_at, weights
from tl_lightning.config.instantiate import find_class
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.digits import Digits
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.methods.base import Adapter, Bank
from tl_lightning.models import base
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.types import Context, View

ADAPTERS = sorted(path.stem for path in (REPO / "conf" / "adapter").glob("*.yaml"))
NODES = {name: OmegaConf.load(REPO / "conf" / "adapter" / f"{name}.yaml") for name in ADAPTERS}
CLASSES: dict[str, type[Adapter]] = {
    name: find_class(node["_target_"], name)[0] for name, node in NODES.items()
}
TERMS = [name for name in ADAPTERS if CLASSES[name].has_terms]


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> str:
    """Return the folder of a run that methods without a source start from."""
    folder = tmp_path_factory.mktemp("trained")
    training.fit(config("model=source_only", "trainer.max_epochs=1"), folder)
    return str(folder)


def arguments(name: str, trained: str) -> list[str]:
    """Return what a run with this method and no other needs."""
    cls = CLASSES[name]
    chosen = ["model=domain_adaptation", f"adapter=[{name}]"]
    if cls.source_free:
        chosen = ["model=source_free", f"adapter=[{name}]", f"init={trained}"]
    if "target_labelled" in cls.needs:
        chosen.append("data.target.labelled_per_class=2")
    return chosen


def module(*overrides: str, classes: int = 10) -> base.TransferModule:
    checked = validation.check(config(*overrides))
    return building.build_module(checked, tuple(map(str, range(classes))))


def batch(net, seed: int = 0, n: int = 12) -> dict[str, dict[str, torch.Tensor]]:
    """Return what the data module would show, of as few pictures in either domain."""
    g = torch.Generator().manual_seed(seed)
    pictures = [
        torch.randint(0, 256, (n, 3, 16, 16), generator=g, dtype=torch.uint8) for _ in "stx"
    ]
    labels = torch.randint(0, 10, (n,), generator=g)
    whole = {
        "source": {"inputs": pictures[0], "labels": labels, "index": torch.arange(n)},
        "target": {"inputs": pictures[1], "index": torch.arange(n), "strong": pictures[2]},
    }
    return {role: part for role, part in whole.items() if role in net.train_on}


def terms_and_views(net, progress=0.7):
    """Return every term of a step, of all stages, and the views that they were made of."""
    net.progress = progress
    for part in [net.task] + ([] if net.twin is None else [net.twin.task]):
        with torch.no_grad():  # different and sure predictions, as of a net that has learnt
            part.head.classifier[-1].weight.mul_(30)
    if net.twin is not None:
        net.twin.before_step(net.backbone, net.task, progress)
    views = net.views(batch(net))
    for view in views.values():
        view.features.retain_grad()
    for adapter in net.methods.values():
        if adapter.uses_bank:
            adapter.begin_epoch(Bank(torch.randn(12, 16), torch.randn(12, 10)))
    out = {}
    for stage in net.stages or [None]:
        out.update(stage_terms(net, views, stage, progress))
    return out, views


def stage_terms(net, views, stage, progress):
    """Return the methods' terms of a stage, without the task's."""
    ctx = Context(
        progress, 5, lambda *_: None, net.task.head.classifier, stage.name if stage else ""
    )
    out = {}
    for adapter in net.methods.values():
        out.update(adapter(views, ctx))
    return out


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("forward", ["joint", "separate"])
def test_gradient_reaches_the_backbone_from_the_target(name, forward, trained) -> None:
    net = module(*arguments(name, trained), f"model.forward={forward}").train()
    torch.manual_seed(0)
    terms, views = terms_and_views(net)
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    view = views["target_strong" if "target_strong" in CLASSES[name].needs else "target"]
    if forward == "separate":
        assert view.features.grad is not None
        assert view.features.grad.abs().sum() > 0
    reached = [p.grad.abs().sum() for p in net.backbone.parameters() if p.grad is not None]
    assert reached, f"{name}: no gradient of its terms reaches the backbone"
    assert torch.stack(reached).sum() > 0


@pytest.mark.parametrize("name", TERMS)
def test_terms_are_finite_in_bfloat16(name, trained) -> None:
    net = module(*arguments(name, trained)).train()
    with torch.autocast("cpu", torch.bfloat16):
        terms, _ = terms_and_views(net)
    assert terms
    for key, value in terms.items():
        assert value.ndim == 0
        assert torch.isfinite(value), key
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", ADAPTERS)
def test_views_of_the_target_hold_no_labels(name, trained) -> None:
    net = module(*arguments(name, trained))
    views = net.views(batch(net))
    for role in ("target", "target_strong"):
        assert role not in views or views[role].labels is None


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_parameter_is_in_exactly_one_named_group(name, trained) -> None:
    net = module(*arguments(name, trained))
    grouped = [id(p) for ps, _ in net.parameter_groups().values() for p in ps]
    twin = [] if net.twin is None else list(net.twin.parameters())
    assert not any(p.requires_grad for p in twin)
    assert sorted(grouped) == sorted({id(p) for p in net.parameters()} - {id(p) for p in twin})


@pytest.mark.parametrize("name", TERMS)
def test_weight_zero_is_training_without_it_bit_for_bit(name, trained, tmp_path, monkeypatch):
    """With the same views of the same pictures, so that batch norm sees the same."""
    knob = next(key for key in ("weight", "max_lambda") if key in NODES[name])
    settings = config(*arguments(name, trained), f"adapter.{name}.{knob}=0")
    training.fit(settings, tmp_path / "zero")
    monkeypatch.setattr(CLASSES[name], "forward", lambda self, views, ctx: {})
    training.fit(settings, tmp_path / "without")
    a, b = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("zero", "without"))
    assert same(a, b, but="adapters.")
    if CLASSES[name].needs or CLASSES[name].source_free:
        return
    training.fit(config("model=joint_bn"), tmp_path / "joint")
    joint = weights(tmp_path / "joint" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(joint[key], a[key]) for key in joint)


@pytest.mark.parametrize("name", ADAPTERS)
def test_other_target_labels_change_nothing(name, trained, tmp_path, monkeypatch) -> None:
    """No label of target train, validation or test moves a weight or the chosen epoch."""
    settings = config(*arguments(name, trained), "selection=im")
    plain = training.fit(settings, tmp_path / "plain")
    honest = Digits.domains

    def lying(self):
        found = honest(self)
        rng = np.random.default_rng(1)
        for split in ("train", "val", "test"):
            labels = getattr(found["target"], split).labels
            labels[:] = rng.integers(0, 3, len(labels))
        return found

    monkeypatch.setattr(Digits, "domains", lying)
    lied = training.fit(settings, tmp_path / "lied")
    assert plain["metrics"] != lied["metrics"]  # the test does see the other labels
    assert plain["selection"] == lied["selection"]
    for file in (plain["selection"]["checkpoint"], "checkpoints/last.ckpt"):
        assert same(weights(tmp_path / "plain" / file), weights(tmp_path / "lied" / file))


@pytest.mark.parametrize("name", ADAPTERS)
def test_checkpoint_loads_and_predicts_the_same(name, trained, tmp_path) -> None:
    settings = config(*arguments(name, trained), "trainer.max_epochs=1")
    report = training.fit(settings, tmp_path)
    loaded = loading.load(tmp_path / report["selection"]["checkpoint"])
    found = evaluation.evaluate(tmp_path / report["selection"]["checkpoint"], None, None)
    assert found["metrics"] == evaluated(report)
    assert list(loaded.adapters) == [name]


@pytest.mark.parametrize("name", ADAPTERS)
def test_resumed_equals_uninterrupted(name, trained, tmp_path, monkeypatch) -> None:
    """In the middle of an epoch: twins, labels of the whole target, optimizers of stages."""
    arguments_ = arguments(name, trained)
    training.fit(config(*arguments_), tmp_path / "whole")
    with stopped_at(monkeypatch, 1, 0):
        training.fit(config(*arguments_), tmp_path / "cut")
    training.fit(config(*arguments_, "resume=auto"), tmp_path / "cut")
    whole, cut = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("whole", "cut"))
    assert same(whole, cut)


def test_a_view_has_what_the_protocol_says() -> None:
    view = View(torch.zeros(2, 3), torch.zeros(2, 4))
    assert view.labels is None
    assert Context(0.0, 0, lambda *_: None, Identity()).stage == ""
