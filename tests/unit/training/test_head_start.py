"""Start of the head as a linear probe, and its selection in place of a worse trained model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers import config, same, stopped_at, weights
from tl_lightning.config.compose import compose
from tl_lightning.config.instantiate import Node
from tl_lightning.config.validation import check as validation
from tl_lightning.config.validation.start import head_init_problems
from tl_lightning.errors import ConfigError
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.training.head_start import prepare_start

ALIGNED = ("model=domain_adaptation", "method=[relative_bn]", "selection=bnm")


def probed(trained: str, *overrides: str):
    return config(f"backbone.checkpoint={trained}", "head_init=probe", *overrides)


def candidates(report) -> dict[str, dict[str, float]]:
    return {one["name"]: one["metrics"] for one in report["start"]["candidates"]}


def test_without_learning_the_run_equals_its_start(tmp_path, trained) -> None:
    report = training.fit(probed(trained, *ALIGNED, "optimizer.lr=0"), tmp_path)
    assert report["start"]["chosen"] in ("frozen probe", "probe, relative_bn")
    start = candidates(report)[report["start"]["chosen"]]
    assert set(start) == {"source/test/acc", "target/test/acc"}
    for name, value in start.items():
        assert report["metrics"][name] == pytest.approx(value, abs=1e-6)
    assert report["selection"]["epoch"] == -1  # no later epoch is better


def test_the_start_is_kept_if_training_hurts(tmp_path, trained) -> None:
    report = training.fit(probed(trained, *ALIGNED, "optimizer.lr=30"), tmp_path)
    assert report["selection"]["epoch"] == -1
    assert report["selection"]["checkpoint"].endswith("bnm-start.ckpt")
    start = candidates(report)[report["start"]["chosen"]]
    assert report["metrics"]["target/test/acc"] == pytest.approx(start["target/test/acc"])


def test_alignment_changes_only_the_target(tmp_path, trained) -> None:
    found = {}
    for strength in (0.0, 1.0):
        change = f"method.relative_bn.strength={strength}"
        report = training.fit(probed(trained, *ALIGNED, change), tmp_path / str(strength))
        found[strength] = candidates(report)
    plain, aligned = (found[1.0][name] for name in ("frozen probe", "probe, relative_bn"))
    assert plain["source/test/acc"] == aligned["source/test/acc"]
    assert plain["target/test/acc"] != aligned["target/test/acc"]
    assert found[0.0]["probe, relative_bn"] == found[0.0]["frozen probe"] == plain


def test_source_only_has_the_same_frozen_probe(tmp_path, trained) -> None:
    one = training.fit(probed(trained, "model=source_only"), tmp_path / "a")
    other = training.fit(probed(trained, *ALIGNED), tmp_path / "b")
    assert candidates(one) == {"frozen probe": candidates(other)["frozen probe"]}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, trained, monkeypatch) -> None:
    training.fit(probed(trained, *ALIGNED), tmp_path / "whole")
    with stopped_at(monkeypatch, epoch=1, batch=1):
        training.fit(probed(trained, *ALIGNED), tmp_path / "cut")
    report = training.fit(probed(trained, *ALIGNED, "resume=auto"), tmp_path / "cut")
    whole, cut = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("whole", "cut"))
    assert same(whole, cut)
    assert len(candidates(report)) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["head.bottleneck=8"], "sets the weights of a linear classifier, but head.bottleneck=8;"),
        (["head.width=8"], "sets the weights of a linear classifier, but head.width=8; set head"),
        (["init=<run>"], "head_init=probe would replace the head of init=.*; set head_init=random"),
        (
            ["model=source_free", "method=[mcc]", "init=null"],
            "needs labelled source samples, but model=mcc has none; set head_init=random",
        ),
        (
            ["backbone.checkpoint=null"],
            "needs features of a trained network, but the backbone has random weights; set head_",
        ),
        (
            ["trainer=fsdp", "trainer.accelerator=cpu"],
            "is not supported with a strategy that shards the weights",
        ),
    ],
)
def test_obstacles_are_reported(trained, overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(probed(trained, *(one.replace("<run>", trained) for one in overrides)))


def test_needs_stored_features(trained, tmp_path) -> None:
    stream = ["model=source_only", "data=stream", f"data.source.url={tmp_path}", "head_init=probe"]
    with pytest.raises(ConfigError, match="stores features, which data=stream does not support"):
        validation.check(compose(["backbone=mobilenet_v2", *stream]))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "random"),
        (("backbone=mobilenet_v2",), "probe"),
        (("backbone=mobilenet_v2", "backbone.pretrained=false"), "random"),
        (("backbone=mobilenet_v2", "head.bottleneck=64"), "random"),
        (("backbone=mobilenet_v2", "head_init=random"), "random"),
    ],
)
def test_auto_is_a_probe_for_pretrained_networks(overrides, expected) -> None:
    assert validation.check(compose([*overrides])).head_init == expected


def test_another_head_is_an_obstacle(trained) -> None:
    run = validation.check(probed(trained))
    other = Node("head", torch.nn.Linear)
    run = replace(run, nodes={**run.nodes, "head": other})
    message = "sets the weights of a linear classifier, but the head is "
    assert message in " ".join(head_init_problems(run, sharded=False))


def test_learning_rates_are_lower_after_a_probe(trained) -> None:
    for overrides, expected in (
        ([], 1e-4),
        (["probe_lr_factor=1"], 1e-3),
        (["lr_find=true"], 1e-3),
        (["head_init=random"], 1e-3),
        (["reference_batch_size=8"], 2e-4),
    ):
        run = validation.check(probed(trained, "optimizer.lr=1e-3", *overrides))
        net = building.build_module(run, tuple("ab"), pretrained=False)
        assert net.lr == pytest.approx(expected)
    with pytest.raises(ConfigError, match="probe_lr_factor=0 is not"):
        validation.check(probed(trained, "probe_lr_factor=0"))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of Lightning; a run ignores it
@pytest.mark.parametrize("methods", ["self_training", "relative_bn,self_training"])
def test_a_teacher_starts_like_the_model(methods, trained, tmp_path) -> None:
    run = validation.check(
        probed(trained, "model=domain_adaptation", f"method=[{methods}]", "cache.features=off")
    )
    parts = building.build(run, tmp_path)
    before = parts.module.task.head.classifier[-1].weight.clone()
    assert prepare_start(parts).chosen
    assert not torch.equal(parts.module.task.head.classifier[-1].weight, before)
    for name in ("backbone", "task"):
        own = getattr(parts.module, name).state_dict()
        other = getattr(parts.module.teacher, name).state_dict()
        assert same(own, other)
