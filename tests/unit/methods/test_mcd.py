"""MCD: terms and gradients of its three steps."""

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

PARAMS = {"weight": 0.5, "repeats": 3, "width": 8, "depth": 1, "dropout": 0.0, "activation": "relu"}


def classifiers():
    given, first = views(), nn.Linear(D, K)
    method = built(MCD, **PARAMS)
    return given, first, method


def gap_of(first, method, f) -> float:
    probs = [softmax(net(f).detach().double().numpy()) for net in (first, method.second)]
    return float(np.abs(probs[0] - probs[1]).mean())


def test_plan() -> None:
    plan = built(MCD, **PARAMS).plan()
    assert [(s.name, s.repeats, s.whole) for s in plan] == [
        ("source", 1, True), ("classifiers", 1, False), ("features", 3, False),
    ]  # fmt: skip
    assert all(stage.forward for stage in plan)


def test_step_a_trains_the_second_classifier_on_the_source() -> None:
    given, first, method = classifiers()
    terms = method(given, context(stage="source", classify=first))
    out = softmax(method.second(given["source"].features).detach().double().numpy())
    expected = -np.log(out[np.arange(len(out)), arrays(given)["y"]]).mean()
    assert terms["mcd_second"].item() == pytest.approx(expected, rel=1e-5)
    assert gradients(terms, given["source"].features)[0].abs().sum() > 0


def test_step_b_trains_only_the_classifiers_to_disagree() -> None:
    given, first, method = classifiers()
    terms = method(given, context(stage="classifiers", classify=first))
    assert terms["mcd_apart"].item() == pytest.approx(
        -0.5 * gap_of(first, method, given["target"].features), rel=1e-5
    )
    y = arrays(given)["y"]
    for name, net in (("mcd_first", first), ("mcd_second", method.second)):
        out = softmax(net(given["source"].features).detach().double().numpy())
        expected = -np.log(out[np.arange(len(out)), y]).mean()
        assert terms[name].item() == pytest.approx(expected, rel=1e-5)
    assert gradients(terms, given["source"].features, given["target"].features) == [None, None]
    for net in (first, method.second):
        apart = gradients({"apart": terms["mcd_apart"]}, *net.parameters())
        assert sum(g.abs().sum() for g in apart) > 0
        labelled = gradients(
            {k: v for k, v in terms.items() if k != "mcd_apart"}, *net.parameters()
        )
        assert sum(g.abs().sum() for g in labelled) > 0


def test_step_c_trains_only_the_target_features_to_agree() -> None:
    given, first, method = classifiers()
    target = given["target"].features
    terms = method(given, context(stage="features", classify=first))
    before = gap_of(first, method, target)
    assert terms["mcd"].item() == pytest.approx(0.5 * before, rel=1e-5)
    result = gradients(terms, target, *first.parameters(), *method.parameters())
    assert result[1:] == [None] * len(result[1:])
    assert gap_of(first, method, target - 0.5 * result[0]) < before


def test_each_stage_of_a_run_changes_only_its_parameters(tmp_path, monkeypatch) -> None:
    """The backbone is fixed in step B, the classifiers are fixed in step C."""
    changed: dict[str, set[str]] = {}
    original = DomainAdaptation.terms
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
            changed.setdefault(before, set()).update(
                name for name in now if not torch.equal(now[name], values[name])
            )
        last.clear()
        last[stage.name] = now
        return original(self, views, stage)

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    training.fit(config("model=domain_adaptation", "method=[mcd]", "optimizer=sgd"), tmp_path)
    assert changed == {
        "source": {"backbone", "first", "second"},
        "classifiers": {"first", "second"},
        "features": {"backbone"},
    }


def rates(overrides, folder, monkeypatch) -> list[float]:
    result = []
    original = DomainAdaptation.on_train_batch_start

    def watch(self, batch, batch_idx):
        original(self, batch, batch_idx)
        result.append(self.optimizers().param_groups[-1]["lr"])

    with monkeypatch.context() as patch:
        patch.setattr(DomainAdaptation, "on_train_batch_start", watch)
        training.fit(config("model=domain_adaptation", "scheduler=cosine", *overrides), folder)
    return result


@pytest.mark.slow
def test_learning_rates_equal_those_of_a_method_without_stages(tmp_path, monkeypatch) -> None:
    alternating = rates(["method=[mcd]"], tmp_path / "mcd", monkeypatch)
    assert alternating == rates(["method=[dann]"], tmp_path / "dann", monkeypatch)
    assert len(set(alternating)) == 6


@pytest.mark.slow
def test_other_methods_only_take_part_in_the_first_stage(tmp_path, monkeypatch) -> None:
    result: dict[str, set[str]] = {}
    original = DomainAdaptation.terms

    def watch(self, views, stage):
        terms = original(self, views, stage)
        result.setdefault(stage.name, set()).update(terms)
        return terms

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    arguments = ["model=domain_adaptation", "method=[mcd,entropy]", "trainer.max_epochs=1"]
    training.fit(config(*arguments), tmp_path)
    assert result == {
        "source": {"task", "mcd_second", "entropy"},
        "classifiers": {"mcd_first", "mcd_second", "mcd_apart"},
        "features": {"mcd"},
    }


def test_weight_zero_disables_the_second_classifier() -> None:
    method = built(MCD, **{**PARAMS, "weight": 0.0})
    assert [stage.name for stage in method.plan()] == ["source"]
    assert method(views(), context(stage="source")) == {}
