"""A backbone trained by a run of one's own goes on to other labels."""

from __future__ import annotations

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


def test_the_backbone_goes_on_to_other_classes(tmp_path) -> None:
    first = split_folders(tmp_path / "first", classes=("ant", "bee", "cat"))
    second = split_folders(tmp_path / "second", classes=("dog", "elk"))
    training.fit(file_config(first, "model=source_only", "data.target=null"), tmp_path / "a")
    learned = weights(tmp_path / "a" / "checkpoints" / "last.ckpt")
    go_on = file_config(second, "model=feature_extraction", "data.target=null")
    go_on["backbone"]["checkpoint"] = str(tmp_path / "a")
    report = training.fit(go_on, tmp_path / "b")
    assert f"the backbone starts from {tmp_path / 'a'}" in report["notes"]
    ended = weights(tmp_path / "b" / "checkpoints" / "last.ckpt")
    names = [name for name in learned if name.startswith("backbone.")]
    assert names
    assert all(torch.equal(learned[name], ended[name]) for name in names)
    assert ended["task.head.classifier.0.weight"].shape[0] == 2
    # The second run's own checkpoints need the first run no more.
    (tmp_path / "a" / "checkpoints").rename(tmp_path / "gone")
    loading.load(tmp_path / "b" / report["selection"]["checkpoint"])


def own(place, *overrides: str):
    settings = config(*overrides)
    settings["backbone"]["checkpoint"] = str(place)
    return building.build_module(validation.check(settings), ("a", "b"))


def test_what_cannot_start_is_refused_in_a_sentence(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"neither a checkpoint nor the folder of a run"):
        own(tmp_path)
    training.fit(config("model=source_only", "trainer.max_epochs=1"), tmp_path / "a")
    fault = (
        r"holds ConvNet, this run builds ConvNet; type backbone=small_cnn backbone\.widths=\[4,8\]$"
    )
    with pytest.raises(CheckpointError, match=fault):
        own(tmp_path / "a", "backbone.widths=[4,6]")
    with pytest.raises(
        CheckpointError, match=r"type backbone=small_cnn backbone\.activation=relu$"
    ):
        own(tmp_path / "a", "backbone.activation=tanh")
    settings = config("model=source_only")
    another = compose(["data=digits", "backbone=resnet18"])["backbone"]
    settings["backbone"] = {**another, "checkpoint": str(tmp_path / "a")}
    with pytest.raises(
        CheckpointError, match=r"this run builds resnet18 \(TorchvisionB.*=\[4,8\] "
    ):
        building.build_module(validation.check(settings), ("a", "b"))
    chosen = own(tmp_path / "a" / "checkpoints" / "last.ckpt")
    kept = weights(tmp_path / "a" / "checkpoints" / "last.ckpt")
    assert all(
        torch.equal(value, kept[f"backbone.{name}"])
        for name, value in chosen.backbone.state_dict().items()
    )


def test_a_resumed_run_goes_on_from_it_too(tmp_path) -> None:
    training.fit(config("model=source_only", "trainer.max_epochs=1"), tmp_path / "a")
    for run, ends in (("whole", [2]), ("cut", [1, 2])):
        for count in ends:
            settings = config(
                "model=fine_tuning", "data.target=null", "regularizer=[l2_sp]", "resume=auto",
                "scheduler=constant", f"trainer.max_epochs={count}",
            )  # fmt: skip
            settings["backbone"]["checkpoint"] = str(tmp_path / "a")
            training.fit(settings, tmp_path / run)
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "cut" / last))


@pytest.mark.parametrize("before", ["null", "[1,2,3,4,5,6,7,8,9,10]"])
@pytest.mark.parametrize("now", ["null", "[9,9,9,9,9,1,1,1,1,1]"])
def test_the_weights_of_classes_are_those_of_this_run(before, now, tmp_path) -> None:
    """They were the other run's, or "another head" where one of the two had none."""
    built = []
    for wish in (before, now):
        settings = validation.check(config("model=source_only", f"loss.class_weights={wish}"))
        built.append(building.build_module(settings, tuple("0123456789")))
    first, second = built
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    file = tmp_path / "last.ckpt"
    stored = {"state_dict": first.state_dict(), "hyper_parameters": dict(first.hparams)}
    torch.save(stored, file)
    own = second.task.loss_fn.weights
    load_model(second.backbone, second.task, file, settings, tuple("0123456789"))
    assert second.task.loss_fn.weights is own
    assert (own is None) == (now == "null")
    assert own is None or own[0] == 9
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_folder_of_a_sweep_is_no_run(tmp_path) -> None:
    (tmp_path / "report.json").write_text('{"kind": "sweep"}')
    with pytest.raises(CheckpointError, match=r"neither a checkpoint nor the folder of a run"):
        own(tmp_path)


def test_a_backbone_with_lora_is_refused_in_a_sentence(tmp_path) -> None:
    theirs = {"_target_": "x.Net", "lora": {"rank": 8}}
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"config": {"backbone": theirs}}}, file)
    with pytest.raises(CheckpointError, match=r"trained with backbone.lora.rank=8.*lora.rank=0$"):
        own(file)


def test_a_checkpoint_that_is_no_path_is_a_fault() -> None:
    settings = config()
    settings["backbone"]["checkpoint"] = 3
    with pytest.raises(ConfigError, match=r"backbone.checkpoint=3 is no path; type backbone"):
        validation.check(settings)


def test_compiling_keeps_names_and_results(tmp_path) -> None:
    training.fit(config("model=source_only"), tmp_path / "plain")
    training.fit(config("model=source_only", "compile=eager"), tmp_path / "compiled")
    a, b = (
        weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("plain", "compiled")
    )
    assert same(a, b)


def test_an_unknown_compiler_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"compile=gcc is neither true nor false nor a backend"):
        validation.check(config("compile=gcc"))
