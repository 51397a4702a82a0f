"""Tests of a trained model on labelled data that it has not seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import file_config, plain_config
from layouts import BREEDS, class_folders, split_folders
from tl_lightning.api.run import predict
from tl_lightning.data.io.folders import image_files
from tl_lightning.evaluation.evaluate import evaluate
from tl_lightning.training import fit as training


def settings(root: Path, *overrides: str) -> dict[str, Any]:
    given = file_config(root, "model=source_only", "trainer.max_epochs=1", *overrides)
    arguments = ["data=folder", f"data.root={root}", "data.batch_size=4", "data.num_workers=0"]
    data = plain_config(*arguments, *overrides)
    return {**given, "data": {**data["data"], "augment": "none", "steps_per_epoch": 2}}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict[str, Any], Path]:
    """Return the folder of images, the report and the checkpoint of a run on them."""
    root = class_folders(tmp_path_factory.mktemp("photos"), 10)
    folder = tmp_path_factory.mktemp("run")
    report = training.fit(settings(root, "model=source_only"), folder)
    return root, report, folder / report["selection"]["checkpoint"]


def accuracy(checkpoint: Path, root: Path) -> float:
    """Return the accuracy on all images below ``root``, from single predictions."""
    files = [file for name in BREEDS for file in image_files(root / name)]
    found = predict(checkpoint, files)
    return float(np.mean([Path(one.sample).parent.name == one.label for one in found]))


def test_every_image_of_a_new_folder_is_tested(run, tmp_path) -> None:
    _, _, checkpoint = run
    class_folders(tmp_path / "new", 7, seed=500)
    shutil.copytree(tmp_path / "new", tmp_path / "only" / "test")
    for root in (tmp_path / "new", tmp_path / "only"):
        found = evaluate(checkpoint, settings(root)["data"])
        assert found["counts"] == {"source": 21}
        assert found["notes"] == ["source: all 21 samples are test samples"]
        expected = accuracy(checkpoint, tmp_path / "new")
        assert found["metrics"]["source/test/acc"] == pytest.approx(expected)


@pytest.mark.slow
def test_the_data_of_the_run_keep_their_split(run, monkeypatch) -> None:
    root, report, checkpoint = run
    expected = report["metrics"]["source/test/acc"]
    assert report["dataset"]["counts"]["source/test"] == 6
    monkeypatch.chdir(root.parent)  # the same folder by another name
    for data in (None, settings(Path(root.name))["data"]):
        found = evaluate(checkpoint, data)
        assert found["counts"] == {"source": 6}
        assert found["metrics"]["source/test/acc"] == pytest.approx(expected)
    whole = evaluate(checkpoint, settings(root, "data.test_fraction=1.0")["data"])
    assert whole["counts"] == {"source": 30}


@pytest.mark.slow
def test_a_copy_of_the_data_of_the_run_keeps_its_split(run, tmp_path) -> None:
    """Otherwise the model would be tested on its training images."""
    root, report, checkpoint = run
    copy = shutil.copytree(root, tmp_path / "copy")
    found = evaluate(checkpoint, settings(copy)["data"])
    assert found["counts"] == {"source": 6}
    expected = report["metrics"]["source/test/acc"]
    assert found["metrics"]["source/test/acc"] == pytest.approx(expected)


@pytest.mark.slow
def test_only_the_changed_domain_is_tested_as_a_whole(run, tmp_path) -> None:
    root, _, checkpoint = run
    class_folders(tmp_path / "target", 5, seed=900)
    data = settings(root, f"data.target.root={tmp_path}/target")["data"]
    assert evaluate(checkpoint, data)["counts"] == {"source": 6, "target": 15}


@pytest.mark.slow
def test_a_split_of_a_new_folder_is_respected(run, tmp_path) -> None:
    _, _, checkpoint = run
    split_folders(tmp_path / "three", 4, 3, 2)
    assert evaluate(checkpoint, settings(tmp_path / "three")["data"])["counts"] == {"source": 9}
    split_folders(tmp_path / "two", 4, 0, 2)
    found = evaluate(checkpoint, settings(tmp_path / "two")["data"])
    note = "source: the 6 samples of the validation split are tested, the 12 others are not"
    assert (found["counts"], found["notes"]) == ({"source": 6}, [note])
    chosen = settings(tmp_path / "two", "data.test_split=hold_out")["data"]
    assert evaluate(checkpoint, chosen)["counts"] == {"source": 3}


@pytest.mark.slow
def test_training_on_train_and_val_keeps_all_of_train(tmp_path) -> None:
    root = split_folders(tmp_path / "two", 6, 0, 3)
    counts = training.fit(settings(root), tmp_path / "run")["dataset"]["counts"]
    assert list(counts.values()) == [18, 9, 9]


@pytest.mark.slow
def test_a_limit_that_leaves_out_test_samples_is_told(run, tmp_path) -> None:
    _, report, checkpoint = run
    assert not [note for note in report["notes"] if "limit_test_batches" in note]
    class_folders(tmp_path / "new", 7, seed=500)
    given = settings(tmp_path / "new", "data.eval_batch_size=2")
    note = "trainer.limit_test_batches=3: only 6 of the 21 test samples of the source were tested"
    found = evaluate(checkpoint, given["data"], given["trainer"] | {"limit_test_batches": 3})
    assert found["counts"] == {"source": 6}
    assert note in found["notes"]
    limited = settings(run[0], "data.eval_batch_size=2")
    limited["trainer"]["limit_test_batches"] = 1
    notes = training.fit(limited, tmp_path / "run")["notes"]
    assert note.replace("=3", "=1").replace("6 of the 21", "2 of the 6") in notes
