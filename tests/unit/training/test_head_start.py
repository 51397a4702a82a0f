"""Start of the head fitted to the frozen network, which is kept if training makes it worse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers import config, same, stopped_at, weights
from tiny_texts import reviews, text_config
from tl_lightning.config.compose import compose
from tl_lightning.config.instantiate import Node
from tl_lightning.config.validation import check as validation
from tl_lightning.config.validation.start import head_init_problems
from tl_lightning.errors import ConfigError
from tl_lightning.models.adaptation import SourceFree
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.training.head_start import prepare_start

#: Heads whose layers are all fitted; layer norm does not depend on the batch.
HIDDEN = (["head.bottleneck=8", "head.bottleneck_norm=layer"], ["head.width=8"])
ALIGNED = ("model=domain_adaptation", "method=[relative_bn]", "selection=bnm")


def probed(trained: str, *overrides: str):
    return config(f"backbone.checkpoint={trained}", "head_init=probe", *overrides)


def candidates(report) -> dict[str, dict[str, float]]:
    return {one["name"]: one["metrics"] for one in report["start"]["candidates"]}


@pytest.mark.slow
@pytest.mark.parametrize("head", [[], *HIDDEN])
def test_without_learning_the_run_equals_its_start(head, tmp_path, trained) -> None:
    report = training.fit(probed(trained, *ALIGNED, *head, "optimizer.lr=0"), tmp_path)
    assert report["start"]["chosen"] in ("frozen probe", "probe, relative_bn")
    start = candidates(report)[report["start"]["chosen"]]
    assert set(start) == {"source/test/acc", "target/test/acc"}
    for name, value in start.items():
        assert report["metrics"][name] == pytest.approx(value, abs=1e-6)
    assert report["selection"]["epoch"] == -1  # no later epoch is better


@pytest.mark.slow
@pytest.mark.parametrize("head", [[], ["head.bottleneck=8"]])
def test_the_start_is_kept_if_training_hurts(head, tmp_path, trained) -> None:
    report = training.fit(probed(trained, *ALIGNED, *head, "optimizer.lr=30"), tmp_path)
    assert report["selection"]["epoch"] == -1
    assert report["selection"]["checkpoint"].endswith("bnm-start.ckpt")
    start = candidates(report)[report["start"]["chosen"]]
    assert report["metrics"]["target/test/acc"] == pytest.approx(start["target/test/acc"])


@pytest.mark.slow
@pytest.mark.parametrize("head", [[], ["head.bottleneck=8"]])
def test_alignment_changes_only_the_target(head, tmp_path, trained) -> None:
    found = {}
    for strength in (0.0, 1.0):
        change = f"method.relative_bn.strength={strength}"
        report = training.fit(probed(trained, *ALIGNED, *head, change), tmp_path / str(strength))
        found[strength] = candidates(report)
    plain, aligned = (found[1.0][name] for name in ("frozen probe", "probe, relative_bn"))
    assert plain["source/test/acc"] == aligned["source/test/acc"]
    assert plain["target/test/acc"] != aligned["target/test/acc"]
    assert found[0.0]["probe, relative_bn"] == found[0.0]["frozen probe"] == plain


@pytest.mark.slow
@pytest.mark.parametrize("head", [[], ["head.bottleneck=8"]])
def test_source_only_has_the_same_frozen_probe(head, tmp_path, trained) -> None:
    one = training.fit(probed(trained, "model=source_only", *head), tmp_path / "a")
    other = training.fit(probed(trained, *ALIGNED, *head), tmp_path / "b")
    assert candidates(one) == {"frozen probe": candidates(other)["frozen probe"]}


@pytest.mark.slow
def test_the_fit_starts_from_the_weights_of_the_model(tmp_path, trained, monkeypatch) -> None:
    """With a learning rate of 0, only the scale of the features is in the first layer."""
    run = validation.check(probed(trained, "model=source_only", "head.bottleneck=8"))
    parts = building.build(run, tmp_path)
    before = {k: v.clone() for k, v in parts.module.state_dict().items()}
    monkeypatch.setattr("tl_lightning.training.head_fit.RATE", 0.0)
    prepare_start(parts)
    after = parts.module.state_dict()
    first = "task.head.bottleneck.0.weight"
    ratio = after[first] / before[first]
    assert torch.allclose(ratio, ratio.mean())
    assert not torch.allclose(ratio, torch.ones(1))
    counted = {f"task.head.bottleneck.1.{k}" for k in ("running_mean", "running_var")}
    counted |= {first, "task.head.bottleneck.1.num_batches_tracked"}
    assert counted <= after.keys()
    rest = after.keys() - counted
    assert same({k: before[k] for k in rest}, {k: after[k] for k in rest})


@pytest.mark.slow
@pytest.mark.parametrize("head", [[], ["head.bottleneck=8", "head.dropout=0.5"]])
def test_a_resumed_run_equals_an_uninterrupted_one(head, tmp_path, trained, monkeypatch) -> None:
    training.fit(probed(trained, *ALIGNED, *head), tmp_path / "whole")
    with stopped_at(monkeypatch, epoch=1, batch=1):
        training.fit(probed(trained, *ALIGNED, *head), tmp_path / "cut")
    report = training.fit(probed(trained, *ALIGNED, *head, "resume=auto"), tmp_path / "cut")
    whole, cut = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("whole", "cut"))
    assert same(whole, cut)
    assert len(candidates(report)) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init=<run>"], "head_init=probe would replace the head of init=.*; set head_init=random"),
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


def test_a_model_without_source_samples_is_an_obstacle(trained) -> None:
    """As a class of the user may be; ours have init set, which is another obstacle."""
    run = validation.check(probed(trained))
    nodes = {**run.nodes, "model": replace(run.model, cls=SourceFree)}
    (problem,) = head_init_problems(replace(run, nodes=nodes), sharded=False)
    assert "needs labelled source samples, but model=" in problem
    assert problem.endswith("has none; set head_init=random")


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
        (("backbone=mobilenet_v2", "head.bottleneck=64"), "probe"),
        (("backbone=mobilenet_v2", "head=mlp", "model=fine_tuning"), "probe"),
        (("backbone=mobilenet_v2", "head=mlp", "model=feature_extraction"), "random"),
        (("backbone=mobilenet_v2", "model=feature_extraction"), "probe"),
        (("backbone=mobilenet_v2", "head_init=random"), "random"),
    ],
)
def test_auto_is_a_probe_for_pretrained_networks(overrides, expected) -> None:
    assert validation.check(compose([*overrides])).head_init == expected


def test_another_head_is_an_obstacle(trained) -> None:
    run = validation.check(probed(trained))
    other = Node("head", torch.nn.Linear)
    run = replace(run, nodes={**run.nodes, "head": other})
    message = "fits a tl_lightning.tasks.head.Head, but the head is torch.nn"
    assert message in " ".join(head_init_problems(run, sharded=False))


@pytest.mark.slow
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
    run = validation.check(
        probed(trained, "optimizer.lr=1e-3", "trainer.max_epochs=5", "data.steps_per_epoch=null")
    )
    for per_class, expected in ((160, 1e-4), (2000, 5e-4), (80_000, 1e-3)):
        # 160 + 160 samples in batches of 16 are 20 steps in each of 5 epochs.
        net = building.build_module(run, tuple("ab"), False, [per_class, per_class])
        assert net.lr == pytest.approx(expected)
    run = validation.check(
        probed(trained, "optimizer.lr=1e-3", "trainer.max_steps=750", "data.steps_per_epoch=null")
    )
    net = building.build_module(run, tuple("ab"), False, [80_000, 80_000])
    assert net.lr == pytest.approx(3e-4)
    with pytest.raises(ConfigError, match="probe_lr_factor=0 is not"):
        validation.check(probed(trained, "probe_lr_factor=0"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of Lightning; a run ignores it
@pytest.mark.parametrize(
    ("methods", "head"),
    [
        ("self_training", []), ("relative_bn,self_training", []),
        ("dsbn,self_training", ["head.bottleneck=8"]),
    ],
)  # fmt: skip
def test_a_teacher_starts_like_the_model(methods, head, trained, tmp_path) -> None:
    settings = ["model=domain_adaptation", f"method=[{methods}]", "cache.features=off", *head]
    run = validation.check(probed(trained, *settings))
    parts = building.build(run, tmp_path)
    before = parts.module.task.head.classifier[-1].weight.clone()
    assert prepare_start(parts).chosen
    assert not torch.equal(parts.module.task.head.classifier[-1].weight, before)
    for name in ("backbone", "task"):
        own = getattr(parts.module, name).state_dict()
        other = getattr(parts.module.teacher, name).state_dict()
        assert same(own, other)


def texts(tmp_path, *overrides: str):
    """Return a run on texts with a fixed network."""
    settings = ["data=text_folder", "data.target=null", "model=fine_tuning", *overrides]
    plain = text_config(tmp_path, f"data.root={reviews(tmp_path / 'texts', 30)}", *settings)
    plain["backbone"] = {
        "_target_": "tiny_texts.LetterCounts",
        "pretrained": True,
        "lr_factor": 0.1,
    }
    return {**plain, "allow": ["tiny_texts"]}


@pytest.mark.slow
@pytest.mark.parametrize("head", [[], ["head.bottleneck=8", "head.bottleneck_norm=layer"]])
def test_texts_can_start_with_a_probe(head, tmp_path) -> None:
    settings = texts(tmp_path, "head_init=probe", "optimizer.lr=0", *head)
    report = training.fit(settings, tmp_path / "run")
    start = candidates(report)["frozen probe"]
    assert report["metrics"]["source/test/acc"] == pytest.approx(start["source/test/acc"])
    assert report["selection"] | {"rule": "source_val", "epoch": -1} == report["selection"]


def test_auto_is_random_for_texts(tmp_path) -> None:
    assert validation.check(texts(tmp_path)).head_init == "random"


@pytest.mark.slow
def test_alignment_can_be_fitted_to_fewer_samples_than_there_are(tmp_path, trained) -> None:
    """Their features were once computed for the whole split, and could not be read back."""
    settings = ["model=domain_adaptation", "method=[align,mcc]", "method.align.samples=50"]
    report = training.fit(probed(trained, *settings, "selection=bnm"), tmp_path)
    assert "frozen probe" in candidates(report)
