"""Runs with several tasks."""

from __future__ import annotations

import csv

import pytest
import torch

from helpers import config, evaluated, file_config, same, stopped_at, weights
from layouts import domain_folders, split_folders, table
from tl_lightning.config.validation import check as validation
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.models import base
from tl_lightning.tasks import multitask as several
from tl_lightning.training import fit as training

LAST = "checkpoints/last.ckpt"
BALANCES = ("fixed", "uncertainty", "pcgrad")


def groups(root, label=lambda k: "odd" if k % 2 else "even"):
    return table(root / "groups.csv", [["class", "label"], *([k, label(k)] for k in range(10))])


def tasks(root, *more):
    """Return settings of two tasks: odd or even, and the number itself with one unknown."""
    number = groups(root, lambda k: "" if k == 3 else k)
    number.rename(root / "numbers.csv")
    return (
        "task=[coarse]", f"tasks.coarse.groups={groups(root)}",
        "+task@tasks.size=regression", f"tasks.size.groups={root / 'numbers.csv'}",
        *more,
    )  # fmt: skip


def listed(root, write, *more):
    """Return settings of a run on a table of two domains whose column ``age`` is as written."""
    domain_folders(root, ("photo", "sketch"), 24, ("dog", "horse"))
    rows = [
        [p.relative_to(root), p.parent.name, p.parts[-3], write(k)]
        for k, p in enumerate(sorted(root.rglob("*.jpg")))
    ]
    file = table(root / "list.csv", [["path", "label", "domain", "age"], *rows])
    return file_config(
        root, "data=csv", f"data.table={file}", "data.source.domain=photo", "data.others=[age]",
        "data.target.domain=sketch", "+task@tasks.age=regression", "tasks.age.labels=age", *more,
    )  # fmt: skip


def logged(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_weight_of_zero_is_training_without_the_task(tmp_path) -> None:
    common = ("model=dann", "head.bottleneck=8")
    alone = training.fit(config(*common), tmp_path / "alone")
    more = tasks(tmp_path, "tasks.coarse.weight=0", "tasks.size.weight=0")
    beside = training.fit(config(*common, *more), tmp_path / "beside")
    mine, theirs = (weights(tmp_path / name / LAST) for name in ("beside", "alone"))
    assert same(mine, theirs, but="others.")
    assert mine.keys() - theirs.keys()  # the heads are there, as they began
    for name, value in alone["metrics"].items():
        assert beside["metrics"][name] == value


@pytest.mark.parametrize("balance", BALANCES)
def test_resumed_equals_uninterrupted(balance, tmp_path, monkeypatch) -> None:
    settings = tasks(tmp_path, f"balance={balance}", "model=source_only", "head.bottleneck=8")
    whole = training.fit(config(*settings), tmp_path / "whole")
    with stopped_at(monkeypatch, 1, 0):
        training.fit(config(*settings), tmp_path / "cut")
    resumed = training.fit(config(*settings, "resume=auto"), tmp_path / "cut")
    assert same(weights(tmp_path / "whole" / LAST), weights(tmp_path / "cut" / LAST))
    assert resumed["metrics"] == whole["metrics"]


@pytest.mark.parametrize("balance", BALANCES)
def test_both_tasks_learn(balance, tmp_path) -> None:
    """Digits in their own look: what a number is and whether it is odd can both be seen."""
    settings = tasks(
        tmp_path, f"balance={balance}", "model=source_only", "head.bottleneck=32",
        "data.steps_per_epoch=120", "trainer.max_epochs=1", "optimizer.lr=0.01",
        "backbone.widths=[8,16]",
    )  # fmt: skip
    found = training.fit(config(*settings), tmp_path / "run")["metrics"]
    assert found["source/test/acc"] > 0.4  # chance: 0.1
    assert found["source/test/coarse/acc"] > 0.75  # 0.5
    assert found["source/test/size/r2"] > 0.3  # 0
    names = set().union(*(row.keys() for row in logged(tmp_path / "run")))
    assert {"source/val/coarse/acc", "source/val/size/mae", "train/task/size"} <= names
    assert ("weight/main" in names) == (balance == "uncertainty")


def test_stored_features_train_the_same_heads(tmp_path) -> None:
    """A frozen backbone's features from the cache give what its pictures give."""
    settings = tasks(tmp_path, "model=feature_extraction", "data.augment=none")
    for mode in ("off", "full"):
        training.fit(config(*settings, f"cache.features={mode}"), tmp_path / mode)
    one, other = (weights(tmp_path / mode / LAST) for mode in ("off", "full"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])
    assert any(name.startswith("others.tasks.size") for name in one)


def test_a_checkpoint_is_evaluated_and_loaded_alone(tmp_path) -> None:
    """It needs neither the tables nor the labels it was trained with."""
    settings = tasks(tmp_path, "balance=uncertainty", "model=source_only")
    report = training.fit(config(*settings), tmp_path / "run")
    for name in ("groups", "numbers"):
        (tmp_path / f"{name}.csv").unlink()
    assert evaluation.evaluate(tmp_path / "run" / LAST, None, None)["metrics"] == evaluated(report)
    model = loading.load(tmp_path / "run" / LAST)
    assert same(model.state_dict(), weights(tmp_path / "run" / LAST))


def test_columns_train_and_no_target_label_is_seen(tmp_path, monkeypatch) -> None:
    seen = []
    honest = base.TransferModule.training_step

    def watched(self, batch, batch_idx):
        seen.append({role: sorted(part.get("others", {})) for role, part in batch.items()})
        return honest(self, batch, batch_idx)

    monkeypatch.setattr(base.TransferModule, "training_step", watched)
    found = listed(tmp_path, lambda k: k if k % 3 else "", "model=dann")
    report = training.fit(found, tmp_path / "run")
    assert seen
    assert all(step == {"source": ["age"], "target": []} for step in seen)
    names = {name for row in logged(tmp_path / "run") for name, value in row.items() if value}
    assert "source/val/age/mae" in names
    assert not any(name.startswith("target/val/age") for name in names)
    assert "target/test/age/mae" in report["metrics"]
    again = evaluation.evaluate(tmp_path / "run" / LAST, None, None)
    assert again["metrics"] == evaluated(report)


def test_what_the_target_says_of_a_task_is_never_learned(tmp_path) -> None:
    """Other labels on the target: the same weights, bit for bit."""
    for name, factor in (("a", 1.0), ("b", -7.0)):
        found = listed(tmp_path / name, lambda k, f=factor: k if k < 48 else f * k, "model=dann")
        training.fit(found, tmp_path / f"run_{name}")
    assert same(*(weights(tmp_path / f"run_{name}" / LAST) for name in ("a", "b")))


def test_labelled_targets_train_further_tasks_too(tmp_path) -> None:
    found = listed(tmp_path, lambda k: k, "model=dann", "data.target.labelled_per_class=2")
    training.fit(found, tmp_path / "run")
    names = set().union(*(row.keys() for row in logged(tmp_path / "run")))
    assert {"train/task/age", "train/task_labelled/age"} <= names


def test_a_frozen_head_keeps_its_tasks_and_weights(tmp_path) -> None:
    """Heads and learned weights are of the head's group: a phase without it freezes them."""
    steps = "phases.steps=[{from: 0, train: [backbone]}]"
    settings = tasks(tmp_path, "balance=uncertainty", "model=source_only", steps)
    parts = training.build(validation.check(config(*settings)), tmp_path / "none")
    before = {k: v.clone() for k, v in parts.module.state_dict().items() if "others." in k}
    training.fit(config(*settings), tmp_path / "run")
    after = {k: v for k, v in weights(tmp_path / "run" / LAST).items() if "others." in k}
    assert len(before) == 5  # two heads of two tensors, and the log variances
    assert same(before, after)


def test_pcgrad_without_its_projection_is_the_sum(tmp_path, monkeypatch) -> None:
    """All that it changes of a step is the projection."""
    settings = tasks(
        tmp_path, "model=source_only", "head.bottleneck=8", "optimizer=sgd", "trainer.max_epochs=1"
    )
    training.fit(config(*settings, "balance=pcgrad"), tmp_path / "projected")
    monkeypatch.setattr(
        several,
        "projected",
        lambda parts, _: [torch.stack(p).sum(0) for p in zip(*parts, strict=True)],
    )
    for balance in ("fixed", "pcgrad"):
        training.fit(config(*settings, f"balance={balance}"), tmp_path / balance)
    one, other, third = (weights(tmp_path / n / LAST) for n in ("fixed", "pcgrad", "projected"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5)
    assert not same(one, third)


def test_layouts_of_folders_take_groups(tmp_path) -> None:
    root = split_folders(tmp_path / "dogs", train=8, test=4)
    lines = [[path.name, path.name[-1]] for path in (root / "train").iterdir()]
    file = table(tmp_path / "groups.csv", [["class", "label"], *lines])
    settings = ("task=[coarse]", f"tasks.coarse.groups={file}", "data.target=null")
    found = file_config(root, "model=fine_tuning", *settings)
    report = training.fit(found, tmp_path / "run")
    assert "source/test/coarse/f1" in report["metrics"]
