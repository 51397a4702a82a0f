"""What ``evaluate`` returns, prints and writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tl_lightning as tl
from tl_lightning.cli import evaluate as commands
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.files import folder_for, write_evaluation
from tl_lightning.evaluation.metrics import assess, plain_values
from tl_lightning.evaluation.outputs import Outputs


@pytest.fixture(scope="module")
def found(trained: str) -> dict[str, Any]:
    """Return the evaluation of a trained model of digits."""
    return tl.evaluate(trained)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
def test_the_scores_are_those_of_the_tested_samples(found, trained) -> None:
    report = json.loads((Path(trained) / "report.json").read_text())
    assert found["domains"].keys() == {"source", "target"}
    for name, part in found["domains"].items():
        outputs = found["outputs"][name]
        assert part["samples"] == found["counts"][name] == len(outputs.logits)
        for key, own in (("acc", "accuracy"), ("f1", "f1"), ("precision", "precision")):
            expected = report["metrics"][f"{name}/test/{key}"]
            score = part["scores"][own]
            assert score["value"] == pytest.approx(expected, abs=1e-6)
            assert score["low"] < expected < score["high"]
        right = outputs.logits.argmax(1) == outputs.labels
        assert right.mean() == pytest.approx(part["scores"]["accuracy"]["value"])
        assert part["confusion"].trace() == right.sum()


def test_files_contain_every_class_confusion_and_prediction(found, trained, tmp_path) -> None:
    again = tl.evaluate(trained, out=tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    summary = json.loads((folder / "metrics.json").read_text())
    assert summary["metrics"] == found["metrics"] == again["metrics"]
    assert summary["domains"]["target"]["scores"] == again["domains"]["target"]["scores"]
    classes = [row for row in rows(folder / "per_class.csv") if row["domain"] == "source"]
    assert [row["class"] for row in classes] == found["classes"]
    recalls = [one["recall"] for one in found["domains"]["source"]["classes"]]
    assert [float(row["recall"]) for row in classes] == recalls
    confusion = rows(folder / "confusion.csv")
    assert sum(int(row["samples"]) for row in confusion) == sum(found["counts"].values())
    predictions = rows(folder / "predictions.csv")
    assert len(predictions) == sum(found["counts"].values())
    for domain in ("source", "target"):
        part = [row for row in predictions if row["domain"] == domain]
        right = np.mean([row["class"] == row["label"] for row in part])
        assert right == pytest.approx(found["metrics"][f"{domain}/test/acc"])
        assert all(float(r["confidence"]) >= float(r["second_confidence"]) for r in part)


def test_names_in_tables_are_not_formulas(tmp_path) -> None:
    logits = np.eye(2, dtype=np.float32)[[0, 1, 1]]
    names, labels = ["=1+1", "b"], np.array([0, 1, 0])
    outputs = Outputs(np.arange(3), logits, labels, ["@x.png", "a.png", "b\ud800.png"])
    domains = {"target": plain_values(assess(logits, labels, names))}
    result = {"classes": names, "domains": domains, "outputs": {"target": outputs}}
    files = write_evaluation(tmp_path, result)
    assert [file.name for file in files] == [
        "metrics.json", "per_class.csv", "confusion.csv", "predictions.csv",
    ]  # fmt: skip
    assert "\n=" not in (text := "".join(file.read_text() for file in files[1:]))
    assert ",=" not in text
    assert rows(files[3])[0]["file"] == "'@x.png"
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files}


@pytest.mark.slow
def test_the_command_prints_scores_classes_and_confusions(trained, tmp_path, capsys) -> None:
    commands._evaluate([f"checkpoint={trained}", f"out={tmp_path}"])
    text = capsys.readouterr().out
    assert text.index("tested: ") < text.index("test metrics with 95 % intervals")
    for part in (
        "balanced accuracy", "top-5 accuracy", "F1, macro", "Cohen's kappa", "AUROC",
        "lowest recall on the source:", "most confused on the target:", " taken for ",
        f"written: {tmp_path}",
    ):  # fmt: skip
        assert part in text


@pytest.mark.slow
def test_an_unlabelled_target_has_predictions_but_no_scores(trained, tmp_path, monkeypatch) -> None:
    from tl_lightning.data.datamodules.digits import DigitsDataModule
    from tl_lightning.data.domain import Domain

    original: Any = DigitsDataModule.domains

    def unlabelled(self: Any) -> dict[str, Domain]:
        found = dict(original(self))
        found["target"] = found["target"].map(lambda split: split.without_labels())
        return found

    monkeypatch.setattr(DigitsDataModule, "domains", unlabelled)
    found = tl.evaluate(trained, out=tmp_path)
    assert found["domains"].keys() == {"source"}
    assert found["outputs"]["target"].labels is None
    labels = {(row["domain"], row["label"] == "") for row in rows(tmp_path / "predictions.csv")}
    assert labels == {("source", False), ("target", True)}


@pytest.mark.slow
def test_outputs_that_are_not_finite_are_reported(trained, tmp_path) -> None:
    report = json.loads((Path(trained) / "report.json").read_text())
    state = torch.load(Path(trained) / report["selection"]["checkpoint"], weights_only=True)
    biases = [key for key in state["state_dict"] if key.startswith("task.head.")]
    state["state_dict"][biases[-1]][3] = float("nan")
    torch.save(state, tmp_path / "nan.ckpt")
    with pytest.raises(DataError, match=r"outputs of the model are not finite for .* test samples"):
        tl.evaluate(tmp_path / "nan.ckpt")


def test_a_folder_that_cannot_be_written_is_reported_before_testing(trained, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"is the folder of a run, whose predictions\.csv would"):
        tl.evaluate(trained, out=trained)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write out=.*File exists; set out=<folder>"):
        tl.evaluate(trained, out=tmp_path / "file")
    assert folder_for(tmp_path / "a" / "b").is_dir()


def test_a_full_disk_is_reported(monkeypatch, tmp_path) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tl_lightning.evaluation.files.write_json", full)
    with pytest.raises(DataError, match=r"cannot write out=.*: No space left on device"):
        write_evaluation(tmp_path, {"classes": [], "domains": {}, "outputs": {}})
