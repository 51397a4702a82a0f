"""Runs on a target without labels: training, selection, predictions, refusals and commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from helpers import SMALL, command, config, plain_config, same, stopped_at, weights
from layouts import BREEDS, class_folders, image
from tiny_texts import reviews, text_config, tiny_bert
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.evaluate import evaluate
from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.schema import read_report
from tl_lightning.sweeps import baselines
from tl_lightning.training import fit as training


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Write labelled ``photos`` and ``test`` and a flat folder ``sketches``."""
    root = tmp_path_factory.mktemp("data")
    class_folders(root / "photos", 12)
    class_folders(root / "test", 3, seed=77)
    for number in range(25):
        image(root / "sketches" / f"{number:02d}.jpg", 9000 + number)
    return root


def settings(root: Path, *overrides: str, test: bool = False) -> dict[str, Any]:
    plain = config()
    given = ["data=folder", f"data.root={root}/photos", f"data.target.root={root}/sketches"]
    given += [f"data.target.test={root}/test"] if test else []
    arguments = [*given, "model=dann", "backbone=tiny_cnn", "selection=bnm", *SMALL, *overrides]
    found = plain_config(*arguments)
    for key in ("trainer", "backbone", "channels_last", "callbacks", "report", "checkpointing"):
        found[key] = plain[key]
    return {**found, "baselines": found["baselines"] if "baselines" in str(overrides) else []}


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("run")
    return training.fit(settings(folders), folder), folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_run_reports_no_accuracy_of_the_target(finished) -> None:
    report, folder = finished
    names = {name for name in report["metrics"] if name.startswith("target/")}
    assert names == {"target/test/entropy", "target/test/im"}
    assert report["metrics"]["source/test/acc"] >= 0
    assert report["dataset"]["unlabelled"] == ["target/train", "target/val", "target/test"]
    assert report["dataset"]["counts"]["target/test"] == 25
    assert report["selection"]["rule"] == "bnm"
    assert any("sketches has no class folders: 25 images" in note for note in report["notes"])
    with (folder / "metrics.csv").open() as handle:
        assert "target/val/acc" not in handle.readline()


def test_predictions_of_every_image(finished, folders) -> None:
    report, folder = finished
    found = rows(folder)
    assert [row["file"] for row in found] == [
        str(path) for path in sorted((folders / "sketches").iterdir())
    ]
    for row in found:
        assert {row["class"], row["second"]} < set(BREEDS)
        assert row["class"] != row["second"]
        assert float(row["confidence"]) >= float(row["second_confidence"]) > 0
    summary = report["predicted"]["target"]
    assert summary["samples"] == 25
    assert summary["classes"] == {b: sum(row["class"] == b for row in found) for b in BREEDS}
    confidence = [float(row["confidence"]) for row in found]
    assert summary["confidence"] == pytest.approx(np.mean(confidence), abs=1e-5)
    with np.load(folder / "predictions.npz") as arrays:
        assert set(arrays["target_true"]) == {-1}
        assert [BREEDS[k] for k in arrays["target_pred"]] == [row["class"] for row in found]
        assert arrays["examples_target"].shape[1:] == (16, 16, 3)
        assert len(arrays["examples_target"]) == len(arrays["examples_target_confidence"])


@pytest.mark.slow
def test_entropy_of_the_test_is_that_of_its_predictions(finished) -> None:
    import torch

    from tl_lightning.inference.predictor import Predictor

    report, folder = finished
    predictor = Predictor.open(folder)
    images = torch.stack([predictor.image(Path(row["file"])) for row in rows(folder)])
    p = torch.from_numpy(predictor.outputs(images).logits).double().softmax(1)
    assert report["metrics"]["target/test/entropy"] == pytest.approx(
        float(torch.special.entr(p).sum(1).mean()), abs=1e-4
    )


@pytest.mark.slow
def test_labelled_test_set_is_scored_and_never_trained_on(folders, finished, tmp_path) -> None:
    report = training.fit(settings(folders, test=True), tmp_path)
    assert report["dataset"]["unlabelled"] == ["target/train", "target/val"]
    assert report["predicted"] == {}
    found = rows(tmp_path)
    assert [row["label"] for row in found] == [breed for breed in BREEDS for _ in range(3)]
    correct = [row["class"] == row["label"] for row in found]
    assert report["metrics"]["target/test/acc"] == pytest.approx(np.mean(correct))
    assert "target/test/entropy" not in report["metrics"]
    # The same training as without the test set.
    one, other = (folder / "checkpoints" / "last.ckpt" for folder in (finished[1], tmp_path))
    assert same(weights(one), weights(other))


@pytest.mark.slow
def test_evaluation_reproduces_the_scores_and_takes_a_test_set(finished, folders) -> None:
    report, folder = finished
    checkpoint = folder / report["selection"]["checkpoint"]
    again = evaluate(checkpoint)["metrics"]
    for name in ("source/test/acc", "target/test/entropy", "target/test/im"):
        assert again[name] == pytest.approx(report["metrics"][name])
    data = settings(folders, test=True)["data"]
    assert 0 <= evaluate(checkpoint, data)["metrics"]["target/test/acc"] <= 1


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_one(folders, finished, tmp_path, monkeypatch) -> None:
    with stopped_at(monkeypatch, 1, 0):
        training.fit(settings(folders), tmp_path)
    report = training.fit(settings(folders, "resume=auto"), tmp_path)
    assert report["metrics"] == finished[0]["metrics"]
    assert rows(tmp_path) == rows(finished[1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selection=oracle"], "selection=oracle selects by target accuracy, but .*sketches.* have"
                               " no labels; set selection=bnm"),
        (["track_target=true"], "track_target=true logs target accuracy, but .*=false"),
        (["baselines=[source_only,oracle]"], r"baselines=\[source_only,oracle\] contains oracle.*"
                                             r"set baselines=\[source_only\]"),
    ],
)  # fmt: skip
def test_settings_that_need_labels_are_refused(folders, tmp_path, overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        training.fit(settings(folders, *overrides, test=True), tmp_path)
    assert not list(tmp_path.iterdir())


def test_oracle_is_refused(folders, tmp_path) -> None:
    changed = settings(folders, "model=oracle", "method={}", "selection=last")
    with pytest.raises(DataError, match="model=oracle learns target labels, but sketches has none"):
        training.fit(changed, tmp_path)


@pytest.mark.slow
def test_baselines_true_leaves_out_the_oracle(folders, tmp_path, capsys) -> None:
    plain = settings(folders, "baselines=true")
    baselines.fit_with_baselines(OmegaConf.create(plain), tmp_path, sweeping=False)
    names = {path.name for path in (tmp_path / "baselines").iterdir()}
    assert names == {"source_only", "joint_bn"}
    assert "skipping baseline oracle: the target has no labels" in capsys.readouterr().out
    base = read_report(tmp_path / "baselines" / "source_only")
    assert base["predicted"]["target"]["samples"] == 25
    (tmp_path / "sweep").mkdir()
    for _ in range(2):  # the second time, nothing is left to do
        baselines.fit_with_baselines(OmegaConf.create(plain), tmp_path / "sweep", sweeping=True)
    job = json.loads((tmp_path / "sweep" / "job.json").read_text())
    assert job["baselines"] == ["source_only", "joint_bn"]


@pytest.mark.slow
def test_source_free_adaptation(folders, finished, tmp_path) -> None:
    changed = settings(
        folders, "model=source_free", "method=[shot]", f"init={finished[1]}", "selection=last"
    )
    report = training.fit(changed, tmp_path)
    assert report["predicted"]["target"]["samples"] == len(rows(tmp_path)) == 25


@pytest.mark.slow
def test_texts_without_labels(tmp_path) -> None:
    tiny_bert(tmp_path / "bert")
    reviews(tmp_path / "mails", 14, most=6)
    texts = [
        path.read_text() for path in sorted(reviews(tmp_path / "all", 8, seed=9).rglob("*.txt"))
    ]
    (tmp_path / "posts").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "posts" / f"{number:02d}.txt").write_text(text)
    data = ["data=text_folder", f"data.root={tmp_path}/mails", f"data.target.root={tmp_path}/posts"]
    run = tmp_path / "run"
    report = training.fit(text_config(tmp_path / "bert", *data, "model=dann"), run)
    assert report["predicted"]["target"]["samples"] == len(texts)
    assert [row["file"] for row in rows(run)] == [f"{k:02d}.txt" for k in range(len(texts))]
    with np.load(run / "predictions.npz") as arrays:
        assert set(arrays["examples_target_text"]) <= {" ".join(text.split()) for text in texts}
    assert "from the most to the least confident" in write_page(run).read_text()
    assert not any("identical to training texts" in note for note in report["notes"])


@pytest.mark.slow
def test_vectors_without_labels(tmp_path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(60, 4)) + y[:, None], y=y)
    np.savez(tmp_path / "b.npz", x=rng.normal(size=(40, 4)) + y[:40, None])
    data = ["data=vectors", "data.batch_size=16", "model=dann"]
    data += [f"data.source.train={tmp_path}/a.npz", f"data.target.train={tmp_path}/b.npz"]
    plain = plain_config(*data)
    plain |= {key: config()[key] for key in ("callbacks", "report", "checkpointing", "trainer")}
    report = training.fit({**plain, "baselines": []}, tmp_path / "run")
    assert report["selection"]["rule"] == "bnm"
    assert sum(report["predicted"]["target"]["classes"].values()) == 40
    assert rows(tmp_path / "run")[3]["file"] == "b/train/0000003"
    assert "Predictions of the target" in write_page(tmp_path / "run").read_text()


@pytest.mark.slow
def test_commands(folders, tmp_path) -> None:
    """From the command line, as in the README."""
    plain = ["data=folder", f"data.root={folders}/photos", f"data.target.root={folders}/sketches"]
    small = [*SMALL, "backbone=tiny_cnn", "backbone.size=16", "trainer=cpu", "report.examples=4"]
    run = tmp_path / "run"
    done = command("train", ["model=dann", *plain, *small, f"hydra.run.dir={run}"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "has no class folders: 25 images without labels; 22 for training, 3 for" in done.stdout
    assert (run / "report.html").is_file()
    done = command("evaluate", [f"checkpoint={run}", f"data.target.test={folders}/test"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "target test" in done.stdout
    done = command("predict", [f"checkpoint={run}", f"input={folders}/sketches", "out=p.csv"],
                   tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open(newline="") as handle:
        predicted = [(row["sample"], row["class"]) for row in csv.DictReader(handle)]
    assert predicted == [(row["file"], row["class"]) for row in rows(run)]
    done = command("adapt", [f"checkpoint={run}", "trainer.max_epochs=1"], tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("check_data", [*plain, "data.batch_size=4"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "22 training images without labels" in done.stdout


@pytest.mark.slow
def test_evaluate_compares_the_estimate_with_a_second_model(folders, finished, tmp_path) -> None:
    second = settings(folders, "model=source_only")
    other = tmp_path / training.fit(second, tmp_path)["selection"]["checkpoint"]
    checkpoint = finished[1] / finished[0]["selection"]["checkpoint"]
    alone, both = evaluate(checkpoint), evaluate(checkpoint, compare=other)
    assert both["expected"][-1].startswith(f"compared with {other}")
    assert not any("compared with" in line for line in alone["expected"])
    assert both["metrics"] == alone["metrics"]
