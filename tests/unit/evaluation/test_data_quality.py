"""Label errors, outliers and ambiguous samples found in features, and their lists."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from layouts import class_folders
from tl_lightning.cli import check_data
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation import data_quality as data_quality_module
from tl_lightning.evaluation.data_quality import out_of_fold, suspects
from tl_lightning.reporting.data_quality import write_lists

pytest.importorskip("cleanlab", reason="needs the extra clean")


def blobs(per_class: int = 60, classes: int = 4, width: int = 16):
    """Return features around one direction per class, far apart, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), per_class)
    features = 4.0 * np.eye(width)[labels] + rng.normal(size=(len(labels), width)) * 0.6
    return features.astype(np.float32), labels


def found(items) -> list[int]:
    return [one.index for one in items]


def test_swapped_labels_are_listed_first_with_the_class_that_they_had() -> None:
    features, labels = blobs()
    wrong = [3, 20, 70, 90, 130, 150, 200, 210]
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1) % 4
    lists, accuracy = suspects(features, given, 4)
    listed = lists["label_error"]
    assert len(set(found(listed)) & set(wrong)) >= 6
    assert set(found(listed)[:6]) <= set(wrong)
    assert len(listed) <= 10
    assert [one.suggested for one in listed[:6]] == [labels[one.index] for one in listed[:6]]
    assert all(one.score < 0.2 for one in listed[:6])
    assert accuracy == pytest.approx(1 - 8 / 240, abs=0.02)
    assert not set(wrong) & set(found(lists["ambiguous"]))


def test_outliers_that_are_alike_do_not_hide_each_other() -> None:
    features, labels = blobs()
    planted = np.arange(9)
    features[planted] = 0.0
    features[planted, -1] = 5.0  # nine equal samples far from all classes
    lists, _ = suspects(features, labels, 4)
    assert set(found(lists["outlier"])[:9]) == set(planted)
    assert len(lists["outlier"]) == 20
    scores = [one.score for one in lists["outlier"]]
    assert scores == sorted(scores, reverse=True)
    assert all(one.suggested is None for one in lists["outlier"])


def test_a_sample_between_two_classes_is_ambiguous() -> None:
    features, labels = blobs()
    features[5] = 0.0
    features[5, :2] = 2.8
    lists, _ = suspects(features, labels, 4)
    assert found(lists["ambiguous"])[0] == 5
    assert lists["ambiguous"][0].suggested in (0, 1)


def test_probabilities_are_those_of_classifiers_that_did_not_see_the_sample() -> None:
    """With more features than samples, a classifier knows its own random labels by heart."""
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(60, 200)), rng.integers(0, 2, 60)
    probabilities = out_of_fold(features, labels, 2)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(60))
    assert abs(np.mean(probabilities.argmax(1) == labels) - 0.5) < 0.2


def test_without_labels_only_outliers_are_searched() -> None:
    features, _ = blobs()
    lists, accuracy = suspects(features, None, 4)
    assert set(lists) == {"outlier"}
    assert accuracy is None


@pytest.mark.parametrize("labels", [[0] * 12, [0, 1, 2] * 4])
def test_one_class_or_classes_of_four_samples_have_no_label_errors(labels) -> None:
    features, _ = blobs(per_class=3)
    lists, accuracy = suspects(features, np.array(labels), 3)
    assert "label_error" not in lists
    assert accuracy is None


def test_cells_of_the_list_are_no_formulas(tmp_path) -> None:
    row = {"finding": "outlier", "rank": 1, "file": "=cmd()", "domain": "source", "split": "train",
           "label": None, "suggested": None, "score": 1.23456}  # fmt: skip
    with write_lists(tmp_path / "x.csv", [row]).open(newline="") as handle:
        (read,) = csv.DictReader(handle)
    assert read["file"] == "'=cmd()"
    assert (read["label"], read["score"]) == ("", "1.235")


@pytest.mark.slow
def test_the_command_writes_lists_and_a_page_with_images(tmp_path, monkeypatch, capsys) -> None:
    root, cwd = tmp_path / "data", tmp_path / "cwd"
    cwd.mkdir()
    class_folders(root, number=12)
    class_folders(root, classes=("rare",), number=4, seed=9)
    monkeypatch.chdir(cwd)
    arguments = [
        "data=folder", f"data.root={root}", "data.target=null", "data.batch_size=4", "trainer=cpu",
        "backbone=small_cnn", "quality=true", "format=json", "model=source_only",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        check_data._check_data(arguments)
    assert end.value.code == 0
    quality = json.loads(capsys.readouterr().out)["quality"]
    page = (cwd / "quality-folder.html").read_text()
    images = len(list(root.rglob("*.jpg")))
    assert quality["samples"] == {"source": images}
    assert "the backbone has random weights" in quality["notes"][0]
    assert quality["notes"][1].endswith("fewer than 5 samples were not examined: rare")
    with (cwd / "quality-folder.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(quality["findings"]) > 0
    assert {row["finding"] for row in rows} >= {"outlier", "ambiguous"}
    assert all(Path(row["file"]).parent.name == row["label"] for row in rows)
    assert page.count("data:image/jpeg") == len(rows)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    names = sorted(path.name for path in cwd.glob("*"))
    assert names == ["quality-folder.csv", "quality-folder.html"]


def test_the_command_says_what_it_cannot_examine(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="quality=yes is not a valid quality; valid: false, true"):
        check_data._check_data(["data=digits", "quality=yes"])
    monkeypatch.setattr(check_data, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package cleanlab; run pip install 'tl_light"):
        check_data._check_data(["data=digits", "quality=true"])


def test_features_that_are_not_finite_are_an_error(tmp_path, monkeypatch) -> None:
    """A network that overflows, such as one with damaged weights."""
    whole = data_quality_module._domain

    def overflowing(parts, domain: str):
        features, labels, places = whole(parts, domain)
        features[[1, 4], 0] = np.nan
        return features, labels, places

    monkeypatch.setattr(data_quality_module, "_domain", overflowing)
    monkeypatch.chdir(tmp_path)
    root = class_folders(tmp_path / "photos", 12)
    with pytest.raises(DataError, match=r"features of 2 of 36 samples of the source are not finit"):
        check_data._check_data([
            "data=folder", f"data.root={root}", "data.target=null", "data.batch_size=4",
            "trainer=cpu", "backbone=small_cnn", "quality=true", "model=source_only",
        ])  # fmt: skip
