"""Warm start from an earlier run, for the backbone or the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers import config, file_config, same, weights
from layouts import split_folders
from tl_lightning.checkpoints.warm_start import load_model
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.evaluation import load as loading
from tl_lightning.training import build as building
from tl_lightning.training import fit as training


@pytest.mark.slow
def test_a_backbone_is_reused_for_other_classes(tmp_path) -> None:
    first = split_folders(tmp_path / "first", classes=("ant", "bee", "cat"))
    second = split_folders(tmp_path / "second", classes=("dog", "elk"))
    training.fit(file_config(first, "model=source_only", "data.target=null"), tmp_path / "a")
    trained = weights(tmp_path / "a" / "checkpoints" / "last.ckpt")
    settings = file_config(second, "model=feature_extraction", "data.target=null")
    settings["backbone"]["checkpoint"] = str(tmp_path / "a")
    report = training.fit(settings, tmp_path / "b")
    assert f"the backbone starts from {tmp_path / 'a'}" in report["notes"]
    reused = weights(tmp_path / "b" / "checkpoints" / "last.ckpt")
    names = [name for name in trained if name.startswith("backbone.")]
    assert names
    assert all(torch.equal(trained[name], reused[name]) for name in names)
    assert reused["task.head.classifier.0.weight"].shape[0] == 2
    # Checkpoints of the second run do not depend on the first run.
    (tmp_path / "a" / "checkpoints").rename(tmp_path / "gone")
    loading.load(tmp_path / "b" / report["selection"]["checkpoint"])


def warm_started(checkpoint, *overrides: str):
    settings = config(*overrides)
    settings["backbone"]["checkpoint"] = str(checkpoint)
    return building.build_module(validation.check(settings), ("a", "b"))


def test_error_messages_for_unsuitable_checkpoints(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"neither a checkpoint nor the folder of a run"):
        warm_started(tmp_path)
    training.fit(config("model=source_only", "trainer.max_epochs=1"), tmp_path / "a")
    problem = (
        r"contains ConvNet, but this run builds ConvNet; "
        r"set backbone=small_cnn backbone\.widths=\[4,8\]$"
    )
    with pytest.raises(CheckpointError, match=problem):
        warm_started(tmp_path / "a", "backbone.widths=[4,6]")
    with pytest.raises(CheckpointError, match=r"set backbone=small_cnn backbone\.activation=relu$"):
        warm_started(tmp_path / "a", "backbone.activation=tanh")
    settings = config("model=source_only")
    resnet = compose(["data=digits", "backbone=resnet18"])["backbone"]
    settings["backbone"] = {**resnet, "checkpoint": str(tmp_path / "a")}
    with pytest.raises(
        CheckpointError, match=r"this run builds resnet18 \(TorchvisionB.*=\[4,8\] "
    ):
        building.build_module(validation.check(settings), ("a", "b"))
    model = warm_started(tmp_path / "a" / "checkpoints" / "last.ckpt")
    state = weights(tmp_path / "a" / "checkpoints" / "last.ckpt")
    assert all(
        torch.equal(value, state[f"backbone.{name}"])
        for name, value in model.backbone.state_dict().items()
    )


@pytest.mark.slow
def test_resume_of_a_warm_started_run_equals_uninterrupted_run(tmp_path) -> None:
    training.fit(config("model=source_only", "trainer.max_epochs=1"), tmp_path / "a")
    for run, epochs in (("whole", [2]), ("resumed", [1, 2])):
        for max_epochs in epochs:
            settings = config(
                "model=fine_tuning", "data.target=null", "regularizer=[l2_sp]", "resume=auto",
                "scheduler=constant", f"trainer.max_epochs={max_epochs}",
            )  # fmt: skip
            settings["backbone"]["checkpoint"] = str(tmp_path / "a")
            training.fit(settings, tmp_path / run)
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "resumed" / last))


@pytest.mark.parametrize("before", ["null", "[1,2,3,4,5,6,7,8,9,10]"])
@pytest.mark.parametrize("now", ["null", "[9,9,9,9,9,1,1,1,1,1]"])
def test_class_weights_are_not_loaded_from_the_earlier_run(before, now, tmp_path) -> None:
    """They belong to the loss of the current run; a difference is not an error."""
    built = []
    for class_weights in (before, now):
        override = f"loss.class_weights={class_weights}"
        settings = validation.check(config("model=source_only", override))
        built.append(building.build_module(settings, tuple("0123456789")))
    first, second = built
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    file = tmp_path / "last.ckpt"
    stored = {"state_dict": first.state_dict(), "hyper_parameters": dict(first.hparams)}
    first.on_save_checkpoint(stored)
    torch.save(stored, file)
    current = second.task.loss_fn.weights
    load_model(second.backbone, second.task, file, settings.plain, tuple("0123456789"))
    assert second.task.loss_fn.weights is current
    assert (current is None) == (now == "null")
    assert current is None or current[0] == 9
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_error_for_the_folder_of_a_sweep(tmp_path) -> None:
    (tmp_path / "report.json").write_text('{"kind": "sweep"}')
    with pytest.raises(CheckpointError, match=r"neither a checkpoint nor the folder of a run"):
        warm_started(tmp_path)


def test_error_for_a_backbone_with_lora(tmp_path) -> None:
    node = {"_target_": "x.Net", "lora": {"rank": 8}}
    file = tmp_path / "last.ckpt"
    hyper = {"config": {"backbone": node}, "classes": [], "aux_tasks": {}}
    empty: dict[str, Any] = {key: {} for key in ("state_dict", "input_state", "restored_by")}
    torch.save({**empty, "hyper_parameters": hyper}, file)
    with pytest.raises(CheckpointError, match=r"trained with backbone.lora.rank=8.*lora.rank=0$"):
        warm_started(file)


def test_error_for_a_checkpoint_that_is_not_a_path() -> None:
    settings = config()
    settings["backbone"]["checkpoint"] = 3
    with pytest.raises(ConfigError, match=r"backbone.checkpoint=3 is not a string or null; set ba"):
        validation.check(settings)


@pytest.mark.slow
def test_compiling_keeps_names_and_results(tmp_path) -> None:
    training.fit(config("model=source_only"), tmp_path / "plain")
    training.fit(config("model=source_only", "compile=eager"), tmp_path / "compiled")
    a, b = (
        weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("plain", "compiled")
    )
    assert same(a, b)


def test_error_for_an_unknown_compiler() -> None:
    with pytest.raises(ConfigError, match=r"compile=gcc is not inductor, .*, true or false; set"):
        validation.check(config("compile=gcc"))
