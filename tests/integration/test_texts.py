"""Runs on texts, from files to the report: phases, caches, methods, checkpoints and errors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from helpers import command, config, evaluated, same, stopped_at, weights
from tiny_texts import imdb, reviews, text_config, tiny_bert
from tl_lightning.api.run import predict
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.text_folders import TextFoldersDataModule
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return a folder with an encoder, short and long reviews, and IMDb."""
    root = tmp_path_factory.mktemp("texts")
    tiny_bert(root / "bert")
    reviews(root / "short", 14, most=6)
    reviews(root / "long", 12, seed=300, most=20)
    imdb(root / "imdb")
    return root


@pytest.fixture(scope="module")
def joint(places, tmp_path_factory):
    """Return the weights of a joint training without an adaptation method."""
    folder = tmp_path_factory.mktemp("joint")
    fit(places, folder, "model=joint_bn")
    return weights(folder / "checkpoints" / "last.ckpt")


def settings(places, *overrides: str):
    """Return a run on the short reviews, with the long ones as the target of adaptation."""
    is_adaptation = any(o.split("=")[1] in ("dann", "cdan", "mmd", "joint_bn") for o in overrides)
    target = [f"data.target.root={places / 'long'}"] if is_adaptation else []
    data = ["data=text_folder", f"data.root={places / 'short'}"]
    return text_config(places / "bert", *data, *target, *overrides)


def fit(places, folder, *overrides: str):
    return training.fit(settings(places, *overrides), folder)


# -- runs --------------------------------------------------------------------------------------
@pytest.mark.slow
def test_fine_tuning_learns_and_reports_example_texts(places, tmp_path) -> None:
    report = fit(
        places, tmp_path / "run", "model=fine_tuning", "data.steps_per_epoch=30",
        "trainer.max_epochs=3",
    )  # fmt: skip
    assert report["metrics"]["source/test/acc"] > 0.9
    assert report["dataset"]["counts"]["source/train"] == 18
    checkpoint = tmp_path / "run" / report["selection"]["checkpoint"]
    assert evaluation.evaluate(checkpoint, None, None)["metrics"] == evaluated(report)
    with np.load(tmp_path / "run" / "predictions.npz", allow_pickle=False) as arrays:
        names, texts = arrays["source_name"], arrays["examples_source_text"]
        true = arrays["source_true"]
    # Evaluation batches are sorted by length, but predictions keep the order of the split.
    assert [("neg", "pos")[label] for label in true] == [name.split("/")[0] for name in names]
    contents = {(places / "short" / name).read_text() for name in names}
    assert set(texts) <= contents
    page = write_page(tmp_path / "run").read_text()
    assert all(f"<p>{text}</p>" in page for text in texts)
    predicted = predict(tmp_path / "run", ["good great lovely", "awful dull", "good"])
    assert [row.label for row in predicted] == ["pos", "neg", "pos"]
    alone = predict(checkpoint, ["awful dull"])
    assert alone[0][2] == pytest.approx(predicted[1][2], abs=1e-5)  # independent of the batch


@pytest.mark.slow
def test_resume_within_an_epoch_equals_uninterrupted_run(places, tmp_path, monkeypatch) -> None:
    arguments = ("model=dann", "data.target.domain=null", "data.steps_per_epoch=6")
    fit(places, tmp_path / "whole", *arguments)
    with stopped_at(monkeypatch, 1, 2):
        fit(places, tmp_path / "interrupted", *arguments)
    fit(places, tmp_path / "interrupted", *arguments, "resume=auto")
    whole, interrupted = (
        weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("whole", "interrupted")
    )
    assert same(whole, interrupted)


@pytest.mark.slow
def test_checkpoint_does_not_need_the_encoder_folder(places, tmp_path, monkeypatch) -> None:
    shutil.copytree(places / "bert", tmp_path / "bert")
    plain = settings(places, "model=fine_tuning", "backbone.pooling=cls")
    plain["backbone"]["name"] = str(tmp_path / "bert")
    report = training.fit(plain, tmp_path / "run")
    checkpoint = tmp_path / "run" / report["selection"]["checkpoint"]
    before = predict(checkpoint, ["good film", "bad book"])
    shutil.rmtree(tmp_path / "bert")
    assert predict(checkpoint, ["good film", "bad book"]) == before
    assert evaluation.evaluate(checkpoint, None, None)["metrics"] == evaluated(report)
    # Neither does another run that loads its backbone.
    own = [f"backbone.checkpoint={checkpoint}", "trainer.max_epochs=1"]
    again = settings(places, "model=feature_extraction", "backbone.pooling=cls", *own)
    again["backbone"]["name"] = str(tmp_path / "bert")
    other = training.fit(again, tmp_path / "next")
    loaded = loading.load(tmp_path / "next" / other["selection"]["checkpoint"])
    assert same(loaded.backbone.state_dict(), loading.load(checkpoint).backbone.state_dict())


@pytest.mark.slow
def test_phases_train_only_their_layer_groups(places, tmp_path) -> None:
    steps = "phases.steps=[{from:0,train:[head]},{from:1,train:[head,layer1]}]"
    fit(places, tmp_path, "model=fine_tuning", steps)
    first = building.build_module(
        validation.check(settings(places, "model=fine_tuning", steps)), ("neg", "pos")
    ).state_dict()
    last = weights(tmp_path / "checkpoints" / "last.ckpt")
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert all(".layer.1." in name or name.startswith("task.") for name in moved)
    assert any(".layer.1." in name for name in moved)
    with pytest.raises(ConfigError, match=r"layer7.*embeddings, layer0, layer1"):
        fit(places, tmp_path / "no", "model=fine_tuning", "phases.steps=[{from:0,train:[layer7]}]")


@pytest.mark.slow
def test_lora_trains_only_its_layers_and_the_head(places, tmp_path) -> None:
    pytest.importorskip("peft")
    report = fit(places, tmp_path, "model=fine_tuning", "backbone.lora.rank=2")
    arguments = settings(places, "model=fine_tuning", "backbone.lora.rank=2")
    first = building.build_module(validation.check(arguments), ("neg", "pos")).state_dict()
    last = weights(tmp_path / "checkpoints" / "last.ckpt")
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert any("lora_" in name for name in moved)
    assert all("lora_" in name or name.startswith("task.") for name in moved)
    checkpoint = tmp_path / report["selection"]["checkpoint"]
    assert evaluation.evaluate(checkpoint, None, None)["metrics"] == evaluated(report)


# -- features ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_cached_features_equal_those_of_the_network(places, tmp_path) -> None:
    reports = {
        mode: fit(places, tmp_path / mode, "model=feature_extraction", f"cache.features={mode}")
        for mode in ("off", "full")
    }
    states = [weights(tmp_path / m / "checkpoints" / "last.ckpt") for m in ("off", "full")]
    assert all(torch.allclose(states[0][k], states[1][k], atol=1e-5) for k in states[0])
    frozen = [name for name in states[0] if name.startswith("backbone.")]
    assert frozen
    assert all(torch.equal(states[0][name], states[1][name]) for name in frozen)
    assert reports["full"]["dataset"]["features"]["source/train"]["computed"] == 18
    again = fit(places, tmp_path / "again", "model=feature_extraction", "cache.features=full")
    assert again["dataset"]["features"]["source/train"]["cached"] == 18
    pooled = fit(places, tmp_path / "cls", "model=feature_extraction", "backbone.pooling=cls")
    assert pooled["dataset"]["features"]["source/train"]["computed"] == 18
    assert "examples_source_text" in np.load(tmp_path / "full" / "predictions.npz").files


@pytest.mark.slow
def test_prefix_features_are_not_supported(places, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"groups form a chain, but those of TextBackbone do not"):
        fit(places, tmp_path, "model=fine_tuning", "cache.features=prefix",
            "phases.steps=[{from:0,train:[head,layer1]}]")  # fmt: skip


# -- methods -----------------------------------------------------------------------------------
@pytest.mark.parametrize("forward", ["joint", "separate"])
@pytest.mark.parametrize("name", ["dann", "cdan", "mmd"])
def test_gradients_reach_the_backbone_for_domains_of_different_length(
    places, name, forward
) -> None:
    plain = validation.check(settings(places, f"model={name}", f"model.forward={forward}"))
    net = building.build_module(plain, ("neg", "pos")).train()
    generator = torch.Generator().manual_seed(0)
    batch = {
        role: {"inputs": torch.randint(5, 20, (4, length), generator=generator),
               "index": torch.arange(4)}
        for role, length in (("source", 5), ("target", 17))
    }  # fmt: skip
    batch["source"]["inputs"][0, 3:] = -1
    batch["source"]["labels"] = torch.tensor([0, 1, 0, 1])
    views = net.views(batch)
    assert views["target"].labels is None
    # Without dropout, joint and separate forward passes give the same features.
    net.eval()
    both, alone = net.views(batch), net.extract(batch["source"]["inputs"])
    torch.testing.assert_close(both["source"].features, net.task(alone)[0], atol=1e-5, rtol=1e-4)
    net.train()
    net.progress = 1.0
    terms = net.losses(batch)
    own = [value for key, value in terms.items() if key != "task"]
    assert own
    torch.stack([term.float() for term in own]).sum().backward()
    reached = [p.grad.abs().sum() for p in net.backbone.parameters() if p.grad is not None]
    assert torch.stack(reached).sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dann", "cdan", "mmd"])
def test_zero_weight_equals_training_without_the_method(places, name, joint, tmp_path) -> None:
    param = "weight" if name == "mmd" else "max_lambda"
    fit(places, tmp_path / "zero", f"model={name}", f"method.{name}.{param}=0")
    zero = weights(tmp_path / "zero" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(zero[key], joint[key]) for key in joint)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dann", "cdan", "mmd"])
def test_target_labels_do_not_change_training(places, name, tmp_path, monkeypatch) -> None:
    arguments = (f"model={name}", "selection=im")
    plain = fit(places, tmp_path / "plain", *arguments)
    original = TextFoldersDataModule.domains

    def with_random_labels(self):
        found = original(self)
        for split in ("train", "val", "test"):
            labels = getattr(found["target"], split).labels
            labels[:] = np.random.default_rng(1).integers(0, 2, len(labels))
        return found

    monkeypatch.setattr(TextFoldersDataModule, "domains", with_random_labels)
    changed = fit(places, tmp_path / "changed", *arguments)
    assert plain["metrics"] != changed["metrics"]  # testing uses the changed labels
    assert plain["selection"] == changed["selection"]
    for file in (plain["selection"]["checkpoint"], "checkpoints/last.ckpt"):
        assert same(weights(tmp_path / "plain" / file), weights(tmp_path / "changed" / file))


# -- errors ------------------------------------------------------------------------------------
def test_data_and_backbone_must_match(places, tmp_path) -> None:
    plain, images = settings(places, "model=fine_tuning"), config("model=source_only")
    with pytest.raises(
        ConfigError, match=r"data=text_folder provides texts, .*set backbone=minilm"
    ):
        validation.check({**plain, "backbone": images["backbone"]})
    with pytest.raises(ConfigError, match=r"data=digits provides images, .* expects texts; set"):
        validation.check({**images, "backbone": plain["backbone"]})


def test_long_texts_are_an_error_before_training(places, tmp_path) -> None:
    with pytest.raises(DataError, match=r"have more than backbone.max_length=5 tokens: "):
        fit(places, tmp_path, "model=fine_tuning", "data.too_long=error", "backbone.max_length=5")
    assert not (tmp_path / "checkpoints").exists()


# -- commands ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_predict_and_check_data_commands(places, tmp_path) -> None:
    report = fit(places, tmp_path / "run", "model=fine_tuning")
    (tmp_path / "lines.txt").write_text("good film\nawful [bold] book, dull\n")
    run = f"checkpoint={tmp_path / 'run'}"
    done = command("predict", [run, "input=lines.txt", "out=predictions.csv"], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert rows[0] == "sample,class,probability,novelty,abstained,error"
    assert rows[2].startswith('"awful [bold] book, dull",')
    assert json.loads((tmp_path / "run" / "report.json").read_text())["seed"] == report["seed"]
    refused = command(
        "check_data",
        ["data=text_folder", "model=fine_tuning", f"data.root={places / 'short'}"],
        tmp_path,
    )
    assert refused.returncode == 2
    assert "contains texts, but this command checks images" in refused.stderr
