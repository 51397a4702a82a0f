"""Runs with auxiliary tasks."""

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
TASK_WEIGHTINGS = ("fixed", "uncertainty", "pcgrad")


def groups(root, label=lambda k: "odd" if k % 2 else "even"):
    return table(root / "groups.csv", [["class", "label"], *([k, label(k)] for k in range(10))])


def tasks(root, *more):
    """Return overrides for two tasks: parity, and the digit's value with one missing label."""
    numbers = groups(root, lambda k: "" if k == 3 else k)
    numbers.rename(root / "numbers.csv")
    return (
        "aux_task=[coarse]", f"aux_tasks.coarse.groups={groups(root)}",
        "+aux_task@aux_tasks.size=regression", f"aux_tasks.size.groups={root / 'numbers.csv'}",
        *more,
    )  # fmt: skip


def table_config(root, age, *more):
    """Return the configuration of a run on a table of two domains with a column ``age``."""
    domain_folders(root, ("photo", "sketch"), 24, ("dog", "horse"))
    rows = [
        [p.relative_to(root), p.parent.name, p.parts[-3], age(k)]
        for k, p in enumerate(sorted(root.rglob("*.jpg")))
    ]
    file = table(root / "list.csv", [["path", "label", "domain", "age"], *rows])
    return file_config(
        root, "data=csv", f"data.table={file}", "data.source.domain=photo",
        "data.label_columns=[age]", "data.target.domain=sketch",
        "+aux_task@aux_tasks.age=regression", "aux_tasks.age.labels=age", *more,
    )  # fmt: skip


def read_metrics(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_weight_zero_equals_training_without_the_task(tmp_path) -> None:
    common = ("model=dann", "head.bottleneck=8")
    without = training.fit(config(*common), tmp_path / "without")
    more = tasks(tmp_path, "aux_tasks.coarse.weight=0", "aux_tasks.size.weight=0")
    zero = training.fit(config(*common, *more), tmp_path / "zero")
    a, b = (weights(tmp_path / name / LAST) for name in ("zero", "without"))
    assert same(a, b, but="multitask.")
    assert a.keys() - b.keys()  # the heads do exist
    for name, value in without["metrics"].items():
        assert zero["metrics"][name] == value


@pytest.mark.slow
@pytest.mark.parametrize("task_weighting", TASK_WEIGHTINGS)
def test_resume_equals_uninterrupted_run(task_weighting, tmp_path, monkeypatch) -> None:
    settings = tasks(
        tmp_path, f"task_weighting={task_weighting}", "model=source_only", "head.bottleneck=8"
    )
    whole = training.fit(config(*settings), tmp_path / "whole")
    with stopped_at(monkeypatch, 1, 0):
        training.fit(config(*settings), tmp_path / "resumed")
    resumed = training.fit(config(*settings, "resume=auto"), tmp_path / "resumed")
    assert same(weights(tmp_path / "whole" / LAST), weights(tmp_path / "resumed" / LAST))
    assert resumed["metrics"] == whole["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("task_weighting", TASK_WEIGHTINGS)
def test_all_tasks_are_learned(task_weighting, tmp_path) -> None:
    """Digit, parity and value are all better than chance on the source."""
    settings = tasks(
        tmp_path, f"task_weighting={task_weighting}", "model=source_only", "head.bottleneck=32",
        "data.steps_per_epoch=120", "trainer.max_epochs=1", "optimizer.lr=0.01",
        "backbone.widths=[8,16]",
    )  # fmt: skip
    result = training.fit(config(*settings), tmp_path / "run")["metrics"]
    assert result["source/test/acc"] > 0.4  # chance: 0.1
    assert result["source/test/coarse/acc"] > 0.75  # chance: 0.5
    assert result["source/test/size/r2"] > 0.3  # chance: 0
    names = set().union(*(row.keys() for row in read_metrics(tmp_path / "run")))
    assert {"source/val/coarse/acc", "source/val/size/mae", "train/task/size"} <= names
    assert ("weight/main" in names) == (task_weighting == "uncertainty")


@pytest.mark.slow
def test_cached_features_train_the_same_heads(tmp_path) -> None:
    """Cached features of a frozen backbone are equivalent to its images."""
    settings = tasks(tmp_path, "model=feature_extraction", "data.augment=none")
    for mode in ("off", "full"):
        training.fit(config(*settings, f"cache.features={mode}"), tmp_path / mode)
    one, other = (weights(tmp_path / mode / LAST) for mode in ("off", "full"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])
    assert any(name.startswith("multitask.tasks.size") for name in one)


@pytest.mark.slow
def test_a_checkpoint_is_loaded_and_evaluated_without_the_tables(tmp_path) -> None:
    settings = tasks(tmp_path, "task_weighting=uncertainty", "model=source_only")
    report = training.fit(config(*settings), tmp_path / "run")
    for name in ("groups", "numbers"):
        (tmp_path / f"{name}.csv").unlink()
    assert evaluation.evaluate(tmp_path / "run" / LAST, None, None)["metrics"] == evaluated(report)
    model = loading.load(tmp_path / "run" / LAST)
    assert same(model.state_dict(), weights(tmp_path / "run" / LAST))


@pytest.mark.slow
def test_label_columns_are_not_used_on_the_target(tmp_path, monkeypatch) -> None:
    records = []
    original = base.TransferModule.training_step

    def watched(self, batch, batch_idx):
        records.append({role: sorted(part.get("aux_labels", {})) for role, part in batch.items()})
        return original(self, batch, batch_idx)

    monkeypatch.setattr(base.TransferModule, "training_step", watched)
    settings = table_config(tmp_path, lambda k: k if k % 3 else "", "model=dann")
    report = training.fit(settings, tmp_path / "run")
    assert records
    assert all(step == {"source": ["age"], "target": []} for step in records)
    names = {name for row in read_metrics(tmp_path / "run") for name, value in row.items() if value}
    assert "source/val/age/mae" in names
    assert not any(name.startswith("target/val/age") for name in names)
    assert "target/test/age/mae" in report["metrics"]
    evaluation_report = evaluation.evaluate(tmp_path / "run" / LAST, None, None)
    assert evaluation_report["metrics"] == evaluated(report)


@pytest.mark.slow
def test_auxiliary_target_labels_do_not_change_the_weights(tmp_path) -> None:
    """Bit for bit, with different labels on the target."""
    for name, factor in (("a", 1.0), ("b", -7.0)):
        root = tmp_path / name
        settings = table_config(root, lambda k, f=factor: k if k < 48 else f * k, "model=dann")
        training.fit(settings, tmp_path / f"run_{name}")
    assert same(*(weights(tmp_path / f"run_{name}" / LAST) for name in ("a", "b")))


@pytest.mark.slow
def test_few_shot_target_samples_train_auxiliary_tasks(tmp_path) -> None:
    few_shot = "data.target.labelled_per_class=2"
    training.fit(table_config(tmp_path, lambda k: k, "model=dann", few_shot), tmp_path / "run")
    names = set().union(*(row.keys() for row in read_metrics(tmp_path / "run")))
    assert {"train/task/age", "train/task_labelled/age"} <= names


@pytest.mark.slow
def test_a_phase_without_head_freezes_auxiliary_heads_and_loss_weights(tmp_path) -> None:
    steps = "phases.steps=[{from: 0, train: [backbone]}]"
    settings = tasks(tmp_path, "task_weighting=uncertainty", "model=source_only", steps)
    parts = training.build(validation.check(config(*settings)), tmp_path / "none")
    before = {k: v.clone() for k, v in parts.module.state_dict().items() if "multitask." in k}
    training.fit(config(*settings), tmp_path / "run")
    after = {k: v for k, v in weights(tmp_path / "run" / LAST).items() if "multitask." in k}
    assert len(before) == 5  # two heads with two tensors each, and the log variances
    assert same(before, after)


@pytest.mark.slow
def test_pcgrad_without_projection_equals_fixed_weighting(tmp_path, monkeypatch) -> None:
    settings = tasks(
        tmp_path, "model=source_only", "head.bottleneck=8", "optimizer=sgd", "trainer.max_epochs=1"
    )
    training.fit(config(*settings, "task_weighting=pcgrad"), tmp_path / "projected")
    monkeypatch.setattr(
        several,
        "projected",
        lambda parts, _: [torch.stack(p).sum(0) for p in zip(*parts, strict=True)],
    )
    for task_weighting in ("fixed", "pcgrad"):
        training.fit(
            config(*settings, f"task_weighting={task_weighting}"), tmp_path / task_weighting
        )
    one, other, third = (weights(tmp_path / n / LAST) for n in ("fixed", "pcgrad", "projected"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5)
    assert not same(one, third)


@pytest.mark.slow
def test_groups_with_a_folder_dataset(tmp_path) -> None:
    root = split_folders(tmp_path / "dogs", train=8, test=4)
    lines = [[path.name, path.name[-1]] for path in (root / "train").iterdir()]
    file = table(tmp_path / "groups.csv", [["class", "label"], *lines])
    settings = ("aux_task=[coarse]", f"aux_tasks.coarse.groups={file}", "data.target=null")
    report = training.fit(file_config(root, "model=fine_tuning", *settings), tmp_path / "run")
    assert "source/test/coarse/f1" in report["metrics"]
