"""Contract tests for every method in conf/method, including newly added ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import Identity

from conftest import REPO
from helpers import config, evaluated, same, stopped_at, weights
from tl_lightning.config.instantiate import find_class
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.digits import DigitsDataModule
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.methods.base import Method, TargetBank
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.models import base
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.types import Context, View

METHODS = sorted(path.stem for path in (REPO / "conf" / "method").glob("*.yaml"))
NODES = {name: OmegaConf.load(REPO / "conf" / "method" / f"{name}.yaml") for name in METHODS}
CLASSES: dict[str, type[Method]] = {
    name: find_class(node["_target_"], name)[0] for name, node in NODES.items()
}
#: Methods with a setting that changes the network, and that setting.
VARIANTS = {
    f"{name}+per_source": [f"method.{name}.per_source=true", "data.source.domain=[plain,inverted]"]
    for name in ("adabn", "dsbn")
}
CLASSES |= {name: CLASSES[name.partition("+")[0]] for name in VARIANTS}
TERMS = [name for name in METHODS if CLASSES[name].adds_loss]
#: One method of each kind: a discriminator, moments, stages, a teacher, no source, no target.
CORE = {"dann", "coral", "mcd", "self_training", "shot", "vrex"}


def core_first(names: Iterable[str]) -> list[Any]:
    """Return the names as parameters; those outside CORE are slow, as there are many."""
    return [pytest.param(one, marks=[] if one in CORE else pytest.mark.slow) for one in names]


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> str:
    """Return the folder of a trained run for source-free methods."""
    folder = tmp_path_factory.mktemp("trained")
    training.fit(config("model=source_only", "trainer.max_epochs=1"), folder)
    return str(folder)


def arguments(name: str, trained: str) -> list[str]:
    """Return the overrides for a run with this method, or variant of one, only."""
    cls, variant = CLASSES[name], VARIANTS.get(name, [])
    name = name.partition("+")[0]
    overrides = ["model=domain_adaptation", f"method=[{name}]"]
    if cls.source_free:
        overrides = ["model=source_free", f"method=[{name}]", f"init={trained}"]
    if "target" not in cls.required_domains and "source" in cls.required_domains:
        overrides = ["model=domain_generalization", f"method=[{name}]"]
    if cls.uses_source_domains:
        overrides.append("data.source.domain=[plain,inverted]")
    if "num_sources" in NODES[name]:
        overrides.append(f"method.{name}.num_sources=2")
    if cls.compares_spans:
        overrides.append("backbone.features=64")
    if "num_samples" in NODES[name]:
        overrides.append(f"method.{name}.num_samples=600")
    if cls.measures_domains:
        overrides.append(f"init={trained}")
    if "target_labelled" in cls.extra_views:
        overrides.append("data.target.labelled_per_class=2")
    return overrides + variant


def module(*overrides: str, classes: int = 10) -> base.TransferModule:
    checked = validation.check(config(*overrides))
    return building.build_module(checked, tuple(map(str, range(classes))))


def batch(net, seed: int = 0, n: int = 12) -> dict[str, dict[str, torch.Tensor]]:
    """Return a batch as from the data module, with ``n`` images per domain."""
    g = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (n, 3, 16, 16), generator=g, dtype=torch.uint8) for _ in "stx"]
    labels = torch.randint(0, 10, (n,), generator=g)
    whole = {
        "source": {
            "inputs": images[0],
            "labels": labels,
            "index": torch.arange(n),
            "domain": torch.arange(n) // 2 % 2,
        },
        "target": {"inputs": images[1], "index": torch.arange(n), "strong": images[2]},
    }
    return {domain: part for domain, part in whole.items() if domain in net.train_on}


def terms_and_views(net, progress=0.7, recovery=1.0):
    """Return the terms of a step, over all stages, and the views."""
    net.progress = progress
    for part in [net.task] + ([] if net.teacher is None else [net.teacher.task]):
        with torch.no_grad():  # diverse and confident predictions, as of a trained network
            part.head.classifier[-1].weight.mul_(30)
    if net.teacher is not None:
        net.teacher.before_step(net.backbone, net.task, progress)
    views = net.views(batch(net))
    for view in views.values():
        view.features.retain_grad()
    for method in net.methods.values():
        if method.uses_target_bank:
            method.begin_epoch(TargetBank(torch.randn(12, 16), torch.randn(12, 10)))
    out = {}
    for stage in net.stages or [None]:
        out.update(stage_terms(net, views, stage, progress, recovery))
    return out, views


def stage_terms(net, views, stage, progress, recovery=1.0):
    """Return the methods' terms of a stage, without those of the task."""
    name = stage.name if stage else ""
    ctx = Context(progress, 5, lambda *_: None, net.task.head.classifier, name, recovery)
    out = {}
    for method in net.methods.values():
        out.update(method(views, ctx))
    return out


def adapted(name: str) -> str:
    """Return the view whose gradient a method must reach: the target's if it adapts to one."""
    if "target_strong" in CLASSES[name].extra_views:
        return "target_strong"
    required = CLASSES[name].required_domains
    return "source" if required == {"source"} else "target"


@pytest.mark.parametrize("name", core_first(TERMS))
@pytest.mark.parametrize("forward", ["joint", "separate"])
def test_gradient_reaches_the_backbone_from_the_target(name, forward, trained) -> None:
    net = module(*arguments(name, trained), f"model.forward={forward}").train()
    torch.manual_seed(0)
    terms, views = terms_and_views(net)
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    view = views[adapted(name)]
    if forward == "separate":
        assert view.features.grad is not None
        assert view.features.grad.abs().sum() > 0
    reached = [p.grad.abs().sum() for p in net.backbone.parameters() if p.grad is not None]
    assert reached, f"{name}: its terms have no gradient with respect to the backbone"
    assert torch.stack(reached).sum() > 0


@pytest.mark.parametrize("name", core_first(TERMS))
def test_the_gradient_from_the_target_follows_the_recovery_after_a_roll_back(name, trained) -> None:
    found = []
    for recovery in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        net = module(*arguments(name, trained), "model.forward=separate").train()
        terms, views = terms_and_views(net, recovery=recovery)
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        view = views[adapted(name)]
        found.append(torch.zeros(()) if view.features.grad is None else view.features.grad)
    assert not found[0].any()
    assert found[1].any()
    torch.testing.assert_close(2 * found[1], found[2])


@pytest.mark.slow
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


@pytest.mark.parametrize("name", core_first(METHODS))
def test_target_views_have_no_labels(name, trained) -> None:
    net = module(*arguments(name, trained))
    views = net.views(batch(net))
    for stream in ("target", "target_strong"):
        assert stream not in views or views[stream].labels is None


@pytest.mark.parametrize("name", core_first(n for n in TERMS if CLASSES[n].tasks == TASKS))
def test_methods_for_every_kind_of_task_use_only_features(name, trained) -> None:
    net = module(*arguments(name, trained)).train()
    views = net.views(batch(net))
    for view in views.values():
        view.logits, view.labels = torch.full_like(view.logits, torch.nan), None
    for stage in net.stages or [None]:
        for key, value in stage_terms(net, views, stage, 0.7).items():
            assert torch.isfinite(value), key


@pytest.mark.parametrize("name", core_first([*METHODS, *VARIANTS]))
def test_every_parameter_is_in_exactly_one_named_group(name, trained) -> None:
    net = module(*arguments(name, trained))
    grouped = [id(p) for ps, _ in net.parameter_groups().values() for p in ps]
    teacher = [] if net.teacher is None else list(net.teacher.parameters())
    assert not any(p.requires_grad for p in teacher)
    assert sorted(grouped) == sorted({id(p) for p in net.parameters()} - {id(p) for p in teacher})


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_weight_zero_equals_training_without_the_method(name, trained, tmp_path, monkeypatch):
    """Bit for bit, with the same views, so that batch norm statistics are the same."""
    weight = next(key for key in ("weight", "max_lambda") if key in NODES[name])
    settings = config(*arguments(name, trained), f"method.{name}.{weight}=0")
    training.fit(settings, tmp_path / "zero")
    monkeypatch.setattr(CLASSES[name], "forward", lambda self, views, ctx: {})
    training.fit(settings, tmp_path / "without")
    a, b = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("zero", "without"))
    assert same(a, b, but="methods.")
    if CLASSES[name].extra_views or CLASSES[name].source_free or adapted(name) == "source":
        return
    same_data = [one for one in arguments(name, trained) if one.startswith(("data.", "backbone."))]
    training.fit(config("model=joint_bn", *same_data), tmp_path / "joint")
    joint = weights(tmp_path / "joint" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(joint[key], a[key]) for key in joint)


@pytest.mark.parametrize("name", core_first([*METHODS, *VARIANTS]))
def test_target_labels_are_not_used(name, trained, tmp_path, monkeypatch) -> None:
    """Changing target train, validation and test labels changes no weight and no selection."""
    rule = "source_val" if adapted(name) == "source" else "im"
    settings = config(*arguments(name, trained), f"selection={rule}")
    plain = training.fit(settings, tmp_path / "plain")
    original = DigitsDataModule.domains

    def with_wrong_labels(self):
        result = original(self)
        rng = np.random.default_rng(1)
        for split in ("train", "val", "test"):
            labels = getattr(result["target"], split).labels
            labels[:] = rng.integers(0, 3, len(labels))
        return result

    monkeypatch.setattr(DigitsDataModule, "domains", with_wrong_labels)
    wrong = training.fit(settings, tmp_path / "wrong")
    assert plain["metrics"] != wrong["metrics"]  # the test metrics do use the wrong labels
    assert plain["selection"] == wrong["selection"]
    for file in (plain["selection"]["checkpoint"], "checkpoints/last.ckpt"):
        assert same(weights(tmp_path / "plain" / file), weights(tmp_path / "wrong" / file))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, *VARIANTS])
def test_loaded_checkpoint_reproduces_the_metrics(name, trained, tmp_path) -> None:
    settings = config(*arguments(name, trained), "trainer.max_epochs=1")
    report = training.fit(settings, tmp_path)
    loaded = loading.load(tmp_path / report["selection"]["checkpoint"])
    result = evaluation.evaluate(tmp_path / report["selection"]["checkpoint"], None, None)
    assert result["metrics"] == evaluated(report)
    assert list(loaded.methods) == [name.partition("+")[0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, *VARIANTS])
def test_resume_equals_uninterrupted_run(name, trained, tmp_path, monkeypatch) -> None:
    """Resumed in the middle of an epoch: teachers, target pseudo-labels, alternating stages."""
    overrides = arguments(name, trained)
    training.fit(config(*overrides), tmp_path / "whole")
    with stopped_at(monkeypatch, 1, 0):
        training.fit(config(*overrides), tmp_path / "resumed")
    training.fit(config(*overrides, "resume=auto"), tmp_path / "resumed")
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "resumed" / last))


def test_defaults_of_view_and_context() -> None:
    view = View(torch.zeros(2, 3), torch.zeros(2, 4))
    assert view.labels is None
    assert Context(0.0, 0, lambda *_: None, Identity()).stage == ""
