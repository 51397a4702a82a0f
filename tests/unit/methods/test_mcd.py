"""MCD: what each of its three steps moves, and by how much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from helpers import config
from methods import D, K, arrays, built, context, gradients, softmax, views
from tl_lightning.methods.mcd import MCD
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.training import fit as training

KNOBS = {"weight": 0.5, "repeats": 3, "width": 8, "depth": 1, "dropout": 0.0, "activation": "relu"}


def players():
    given, first = views(), nn.Linear(D, K)
    method = built(MCD, **KNOBS)
    return given, first, method


def gap_of(first, method, f) -> float:
    shares = [softmax(net(f).detach().double().numpy()) for net in (first, method.second)]
    return float(np.abs(shares[0] - shares[1]).mean())


def test_plan() -> None:
    plan = built(MCD, **KNOBS).plan()
    assert [(s.name, s.repeats, s.whole) for s in plan] == [
        ("source", 1, True), ("classifiers", 1, False), ("features", 3, False),
    ]  # fmt: skip
    assert all(stage.forward for stage in plan)


def test_first_step_teaches_the_second_classifier_the_source() -> None:
    given, first, method = players()
    terms = method(given, context(stage="source", classify=first))
    out = softmax(method.second(given["source"].features).detach().double().numpy())
    wanted = -np.log(out[np.arange(len(out)), arrays(given)["y"]]).mean()
    assert terms["mcd_second"].item() == pytest.approx(wanted, rel=1e-5)
    assert gradients(terms, given["source"].features)[0].abs().sum() > 0


def test_second_step_moves_both_classifiers_apart_and_no_feature() -> None:
    given, first, method = players()
    terms = method(given, context(stage="classifiers", classify=first))
    assert terms["mcd_apart"].item() == pytest.approx(
        -0.5 * gap_of(first, method, given["target"].features), rel=1e-5
    )
    y = arrays(given)["y"]
    for name, net in (("mcd_first", first), ("mcd_second", method.second)):
        out = softmax(net(given["source"].features).detach().double().numpy())
        wanted = -np.log(out[np.arange(len(out)), y]).mean()
        assert terms[name].item() == pytest.approx(wanted, rel=1e-5)
    assert gradients(terms, given["source"].features, given["target"].features) == [None, None]
    for net in (first, method.second):
        pull = gradients({"apart": terms["mcd_apart"]}, *net.parameters())
        assert sum(g.abs().sum() for g in pull) > 0
        labelled = gradients(
            {k: v for k, v in terms.items() if k != "mcd_apart"}, *net.parameters()
        )
        assert sum(g.abs().sum() for g in labelled) > 0


def test_third_step_moves_the_target_features_together_and_no_classifier() -> None:
    given, first, method = players()
    target = given["target"].features
    terms = method(given, context(stage="features", classify=first))
    before = gap_of(first, method, target)
    assert terms["mcd"].item() == pytest.approx(0.5 * before, rel=1e-5)
    found = gradients(terms, target, *first.parameters(), *method.parameters())
    assert found[1:] == [None] * len(found[1:])
    assert gap_of(first, method, target - 0.5 * found[0]) < before


def test_each_step_of_a_run_moves_only_its_players(tmp_path, monkeypatch) -> None:
    """In a real batch: backbone still in step two, classifiers still in step three."""
    moved: dict[str, set[str]] = {}
    honest = DomainAdaptation.terms
    last: dict[str, dict[str, torch.Tensor]] = {}

    def parts(net):
        groups = {
            "backbone": net.backbone, "first": net.task, "second": net.methods["mcd"].second,
        }  # fmt: skip
        return {
            name: torch.cat([p.detach().flatten().clone() for p in part.parameters()])
            for name, part in groups.items()
        }

    def watch(self, views, stage):
        now = parts(self)
        if last:
            ((before, values),) = last.items()
            moved.setdefault(before, set()).update(
                name for name in now if not torch.equal(now[name], values[name])
            )
        last.clear()
        last[stage.name] = now
        return honest(self, views, stage)

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    training.fit(config("model=domain_adaptation", "adapter=[mcd]", "optimizer=sgd"), tmp_path)
    assert moved == {
        "source": {"backbone", "first", "second"},
        "classifiers": {"first", "second"},
        "features": {"backbone"},
    }


def rates(overrides, folder, monkeypatch) -> list[float]:
    found = []
    honest = DomainAdaptation.on_train_batch_start

    def watch(self, batch, batch_idx):
        honest(self, batch, batch_idx)
        found.append(self.optimizers().param_groups[-1]["lr"])

    with monkeypatch.context() as patch:
        patch.setattr(DomainAdaptation, "on_train_batch_start", watch)
        training.fit(config("model=domain_adaptation", "scheduler=cosine", *overrides), folder)
    return found


def test_learning_rates_are_those_of_a_method_without_turns(tmp_path, monkeypatch) -> None:
    turns = rates(["adapter=[mcd]"], tmp_path / "mcd", monkeypatch)
    assert turns == rates(["adapter=[dann]"], tmp_path / "dann", monkeypatch)
    assert len(set(turns)) == 6


def test_other_methods_belong_to_the_first_step_alone(tmp_path, monkeypatch) -> None:
    found: dict[str, set[str]] = {}
    honest = DomainAdaptation.terms

    def watch(self, views, stage):
        terms = honest(self, views, stage)
        found.setdefault(stage.name, set()).update(terms)
        return terms

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    arguments = ["model=domain_adaptation", "adapter=[mcd,entropy]", "trainer.max_epochs=1"]
    training.fit(config(*arguments), tmp_path)
    assert found == {
        "source": {"task", "mcd_second", "entropy"},
        "classifiers": {"mcd_first", "mcd_second", "mcd_apart"},
        "features": {"mcd"},
    }


def test_no_weight_no_second_classifier() -> None:
    method = built(MCD, **{**KNOBS, "weight": 0.0})
    assert [stage.name for stage in method.plan()] == ["source"]
    assert method(views(), context(stage="source")) == {}
