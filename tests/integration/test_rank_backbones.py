"""tl-rank-backbones: table, files, stored features and error messages."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from helpers import command
from tl_lightning.backbones.source_head import source_head
from tl_lightning.backbones.vision import TimmBackbone
from tl_lightning.cli import rank_backbones as cli
from tl_lightning.config.compose import composed
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import ranking
from tl_lightning.training.build import build
from tl_lightning.training.linear_probe import fit_probe

QUICK = ["data=digits", "trainer=cpu", "trainer.precision=32-true", "channels_last=false"]
NETS = ["tiny_cnn+widths=[4]", "small_cnn+size=8", "timm+name=nonsense"]


def write_images(folder, classes=("cat", "dog"), count=8) -> None:
    rng = np.random.default_rng(0)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


@pytest.mark.slow
def test_table_files_and_a_backbone_that_cannot_be_used(tmp_path) -> None:
    arguments = [
        *QUICK, f"backbones=[{','.join(NETS)}]", "samples=100", "test=true", "out=made",
        f"cache.dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    done = command("rank_backbones", arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "timm+name=nonsense: not ranked: backbone.name=nonsense not found in timm" in done.stdout
    assert "LEEP and NCE not available: it is not a network of torchvision" in done.stdout
    names = sorted(file.name for file in (tmp_path / "made").iterdir())
    assert names == ["backbones.csv", "backbones.md", "backbones.png"]
    with (tmp_path / "made" / "backbones.csv").open() as file:
        rows = {row["backbone"]: row for row in csv.DictReader(file)}
    assert list(rows)[-1] == "timm+name=nonsense"
    accuracies = [float(row["val_accuracy"]) for row in list(rows.values())[:-1]]
    assert accuracies == sorted(accuracies, reverse=True)
    small = rows["small_cnn+size=8"]
    assert (small["val_samples"], small["test_samples"], small["computed"]) == ("100", "100", "300")
    assert float(small["val_low"]) < float(small["val_accuracy"]) < float(small["val_high"])
    assert float(small["per_second"]) > 0
    # Features of all domains are those of the source alone, stored and used again.
    again = command("rank_backbones", arguments, tmp_path)
    assert again.returncode == 0, again.stderr
    with (tmp_path / "made" / "backbones.csv").open() as file:
        stored = {row["backbone"]: row for row in csv.DictReader(file)}
    for name, row in stored.items():
        for key in ("val_accuracy", "test_accuracy", "logme", "h_score", "features", "parameters"):
            assert row[key] == rows[name][key]
    assert {row["computed"] for row in stored.values()} == {"0", ""}
    assert "features of" not in again.stderr


def test_the_probe_is_the_one_on_the_features_of_the_network(tmp_path) -> None:
    config = cli._config(NETS[0], [*QUICK, f"cache.dir={tmp_path / 'cache'}"])
    run = validation.check(config)
    row = ranking.rank_backbone(run, "x", tmp_path, None, True)
    parts = build(run, tmp_path)
    source = parts.data.found["source"]
    assert "target" not in parts.data.found
    features = {
        name: parts.module.eval().extract(
            parts.data.dataset("source", split, train=False).inputs
        ).numpy()
        for name, split in source.splits().items()
    }  # fmt: skip
    probe = fit_probe(
        features["train"], source.train.labels, features["val"], source.val.labels, 10
    )
    for name, hits in (("val", row.val), ("test", row.test)):
        assert hits is not None
        labels = source.splits()[name].labels
        assert hits.total == len(labels)
        expected = np.mean(probe.logits(features[name]).argmax(1) == labels)
        assert hits.accuracy == pytest.approx(expected, abs=0.012)
    assert row.parameters == sum(p.numel() for p in parts.module.backbone.parameters())
    assert row.width == features["train"].shape[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=digits"], r"backbones is missing; set backbones=\[mobilenet_v2,resnet18\]"),
        (["backbones=[]"], "backbones is missing"),
        (
            ["backbones=[mobilnet_v2]"],
            "backbones contains mobilnet_v2, which is not a choice of conf/backbone/; did you mean "
            "'mobilenet_v2'",
        ),
        (["backbones=[timm+name=]"], r"name= has no value; set timm\+<key>=<value>"),
        (["backbones=[tiny_cnn,tiny_cnn]"], "backbones contains tiny_cnn twice"),
        (["backbones=[tiny_cnn]", "samples=1"], "samples=1 is not a number of at least 2, nor all"),
        (["backbones=[tiny_cnn]", "test=yes"], "test=yes is not true or false; set test=true"),
        (["backbones=[tiny_cnn]", "model=dann"], "model=dann is not supported by .*; omit it"),
        (["backbones=[tiny_cnn]", "backbone=timm"], "backbone=timm is not supported by"),
        (["backbones=[tiny_cnn+wdths=3]"], "backbone.wdths is not a setting; did you mean"),
        (["backbones=[vector_net]", "data=vectors"], "data=vectors is not supported: vectors are"),
        (["backbones=[tiny_cnn]", "ot=x"], "ot is not a setting; did you mean 'out'"),
    ],
)
def test_invalid_arguments(arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        cli._rank(arguments)
    assert list(tmp_path.iterdir()) == []


def ranked(folder, *more: str) -> list[str]:
    return ["data=folder", f"data.root={folder}", "backbones=[tiny_cnn]", "trainer=cpu", *more]


@pytest.mark.slow
def test_data_without_images_or_with_one_class(tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"a folder of class folders .* not found"):
        cli._rank(ranked(tmp_path / "empty"))
    write_images(tmp_path / "one", ("cat",))
    with pytest.raises(DataError, match="contains only one class folder, 'cat'; at least two"):
        cli._rank(ranked(tmp_path / "one"))
    write_images(tmp_path / "two")
    places = {"train": ("cat", 0), "val": ("cat", 2), "test": ("dog", 0)}
    rows = [f"two/{label}/{n + k}.png,{label},{split}"
            for split, (label, n) in places.items() for k in range(2)]  # fmt: skip
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    table = ["data=csv", f"data.table={tmp_path / 'list.csv'}", "backbones=[tiny_cnn]"]
    with pytest.raises(DataError, match="training samples of data=csv have a single class"):
        cli._rank(table)
    with pytest.raises(DataError, match="no backbone could be ranked; see the reasons above"):
        cli._rank([*ranked(tmp_path / "two"), "backbones=[timm+name=nonsense]"])
    assert "not ranked: backbone.name=nonsense not found" in capsys.readouterr().out


def test_a_backbone_that_runs_out_of_memory_or_gives_nan_is_a_row(tmp_path, monkeypatch) -> None:
    run = validation.check(cli._config(NETS[0], QUICK))

    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(ranking, "_measured", fail)
        row = ranking.rank_backbone(run, "x", tmp_path, 100, False)
    assert re.search("memory", row.problem)
    with monkeypatch.context() as patch:
        patch.setattr(ranking, "_measured", lambda *_: [][0])
        with pytest.raises(IndexError):
            ranking.rank_backbone(run, "x", tmp_path, 100, False)
    original = ranking.frozen_features

    def broken(parts, splits):
        features, computed = original(parts, splits)
        return {key: rows * np.nan for key, rows in features.items()}, computed

    monkeypatch.setattr(ranking, "frozen_features", broken)
    assert "not finite" in ranking.rank_backbone(run, "x", tmp_path, 100, False).problem


def timm_net(name: str, weights: str | None):
    params = {"name": name, "pretrained": False, "weights": weights}
    net = TimmBackbone(size=None, grad_checkpointing=False, lr_factor=1.0, freeze_bn=True, **params)
    return net, params


@pytest.mark.slow
def test_the_classifier_of_the_weights_gives_the_logits_of_the_whole_network(tmp_path) -> None:
    import timm

    torch.manual_seed(0)
    whole = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    file = tmp_path / "net.safetensors"
    save_file(whole.state_dict(), file)
    net, params = timm_net("mobilenetv3_small_050", str(file))
    head = source_head(net, params)
    assert not isinstance(head, str)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = head.logits(net.eval()(images).numpy())
        assert np.allclose(logits, whole(images).numpy(), atol=1e-4)
    state = whole.state_dict()
    cases = {
        "contains only zeros": {**state, "classifier.weight": torch.zeros(7, 1024)},
        "does not take the features": {**state, "classifier.weight": torch.ones(7, 3)},
        "contain no classifier": {k: v for k, v in state.items() if "classifier" not in k},
    }
    for reason, changed in cases.items():
        save_file(changed, file)
        found = source_head(net, params)
        assert isinstance(found, str)
        assert reason in found
    file.unlink()
    assert "could not be read again (CheckpointError)" in source_head(net, params)
    assert source_head(net, {**params, "weights": None}) == "its weights are random"
    assert source_head(net, {**params, "checkpoint": "run"}) == "its weights come from a run"


def test_help_and_composition(monkeypatch) -> None:
    plain = cli._config("mobilenet_v2+pretrained=false", ["data=dogs"])
    assert plain["backbone"]["pretrained"] is False
    assert (plain["data"]["target"], plain["data"]["augment"]) == (None, "none")
    kept = cli._config("tiny_cnn", ["data=dogs", "data.target.root=/x"])
    assert kept["data"]["target"]["root"] == "/x"
    assert composed(["data=dogs"], ()).data.target is not None
