"""Paired comparison of two models, and accuracy by group."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_lightning as tl
from helpers import config, file_config
from layouts import class_folders, table
from tl_lightning.cli import evaluate as commands
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.comparison import by_group, compared
from tl_lightning.evaluation.outputs import Outputs
from tl_lightning.reporting.statistics import newcombe, wilson
from tl_lightning.training import fit as training


def outputs(right: list[bool]) -> Outputs:
    """Return outputs for samples of class 0 that are recognised or not."""
    logits = np.eye(2, dtype=np.float32)[[0 if hit else 1 for hit in right]]
    files = [f"{k}.png" for k in range(len(right))]
    return Outputs(np.arange(len(right)), logits, np.zeros(len(right), dtype=np.int64), files)


def test_mcnemars_test_counts_the_samples_that_one_model_recognises() -> None:
    first = [True] * 20 + [True] * 10 + [False] * 3 + [False] * 7
    second = [True] * 20 + [False] * 10 + [True] * 3 + [False] * 7
    found = compared(outputs(first), outputs(second))
    counts = [found[key] for key in ("both", "only_first", "only_second", "neither")]
    assert counts == [20, 10, 3, 7]
    tail = sum(math.comb(13, k) for k in range(4)) / 2**13
    assert found["p"] == pytest.approx(2 * tail)
    assert found["accuracy"] == [0.75, 0.575]
    assert (found["difference"], found["low"], found["high"]) == (
        pytest.approx(0.175), *newcombe(20, 10, 3, 7)[2:4]
    )  # fmt: skip
    turned = compared(outputs(second), outputs(first))
    assert (turned["difference"], turned["p"]) == (-found["difference"], found["p"])


def test_equal_predictions_show_no_difference() -> None:
    found = compared(outputs([True, False, True]), outputs([True, False, True]))
    assert (found["difference"], found["p"]) == (0.0, 1.0)
    assert found["low"] < 0 < found["high"]


def test_models_tested_on_other_samples_are_not_compared() -> None:
    with pytest.raises(DataError, match=r"tested on different samples \(3 and 2\), and cannot be"):
        compared(outputs([True] * 3), outputs([True] * 2))


def test_the_worst_group_has_enough_samples() -> None:
    cells = ["night"] * 12 + ["day"] * 20 + ["dusk"] * 2 + [" "]
    right = np.array([k % 2 == 0 for k in range(12)] + [True] * 15 + [False] * 8)
    found = by_group(right, cells)
    assert found is not None
    assert [(g["value"], g["samples"], g["accuracy"]) for g in found["groups"]] == [
        ("day", 20, 0.75), ("dusk", 2, 0.0), ("night", 12, 0.5),
    ]  # fmt: skip
    night = found["groups"][2]
    assert (night["low"], night["high"]) == wilson(6, 12)
    assert (found["worst"], found["unknown"]) == ("night", 1)  # two of dusk say little
    few = by_group(right[:4], ["a", "b", "b", "b"])
    assert few is not None
    assert few["worst"] == "b"  # no group is large
    alone = by_group(right, ["x"] * 35)
    assert alone is not None
    assert alone["worst"] is None


def test_a_column_of_numbers_has_no_groups() -> None:
    assert by_group(np.ones(200, dtype=bool), [str(k) for k in range(200)]) is None


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the same data and classes with another seed and size of images."""
    folder = tmp_path_factory.mktemp("other")
    training.fit(config("model=source_only", "seed=1", "backbone.size=12"), folder)
    return folder


@pytest.mark.slow
def test_two_runs_are_compared_on_the_same_samples(trained, other, tmp_path, capsys) -> None:
    commands._evaluate([f"checkpoint={trained}", f"compare={other}", f"out={tmp_path}"])
    text = capsys.readouterr().out
    found = tl.evaluate(trained, compare=other)
    alone = tl.evaluate(other)
    assert found["metrics"] == tl.evaluate(trained)["metrics"]
    for domain in ("source", "target"):
        part, key = found["comparison"][domain], f"{domain}/test/acc"
        assert part["accuracy"] == pytest.approx([found["metrics"][key], alone["metrics"][key]])
        hits = [(r["outputs"][domain].logits.argmax(1) == r["outputs"][domain].labels)
                for r in (found, alone)]  # fmt: skip
        assert part["only_first"] == (hits[0] & ~hits[1]).sum() > 0
        assert part["only_second"] == (~hits[0] & hits[1]).sum() > 0
        assert f"on the {domain}: " in text
    assert "exact McNemar test p" in text
    assert f"only for the first, {part['only_second']} only for the second" in text
    assert '"only_first"' in (tmp_path / "metrics.json").read_text()


def test_a_model_of_other_classes_is_not_compared(trained, tmp_path) -> None:
    root = class_folders(tmp_path / "photos", 10)
    training.fit(file_config(root, "model=source_only", "data=folder"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"compare=.* was trained on the classes n0.*, but check"):
        tl.evaluate(trained, compare=tmp_path / "run")


@pytest.mark.slow
def test_groups_of_a_table_and_a_second_split_are_told(tmp_path, capsys) -> None:
    root = class_folders(tmp_path / "photos", 20, ("cat", "dog"))
    lines: list[list[Any]] = [["path", "label", "camera"]]
    for k, path in enumerate(sorted(root.rglob("*.jpg"))):
        lines.append([path.relative_to(root), path.parent.name, "=old" if k % 3 else "new"])
    file = table(root / "list.csv", lines)
    more = ("model=source_only", "data=csv", f"data.table={file}", "trainer.max_epochs=1")
    training.fit(file_config(root, *more), tmp_path / "run")
    training.fit(file_config(root, *more, "data.test_fraction=0.4"), tmp_path / "second")
    arguments = [f"checkpoint={tmp_path}/run", "data.label_columns=[camera]", f"out={tmp_path}/out"]
    commands._evaluate(arguments)
    text = capsys.readouterr().out
    assert "accuracy on the source by camera:" in text
    assert "(worst group)" in text
    found = tl.evaluate(tmp_path / "run", ["data.label_columns=[camera]"])
    part, tested = found["domains"]["source"]["groups"]["camera"], found["outputs"]["source"]
    camera = {str(root / line[0]): line[2] for line in lines[1:]}
    for group in part["groups"]:
        own = np.array([camera[file] == group["value"] for file in tested.files])
        hits = (tested.logits.argmax(1) == tested.labels)[own]
        assert (group["samples"], group["accuracy"]) == (own.sum(), pytest.approx(hits.mean()))
    with (tmp_path / "out" / "groups.csv").open() as handle:
        written = list(csv.DictReader(handle))
    assert [row["value"] for row in written] == ["'=old", "new"]
    note = "the model of compare was trained on another split of the source's samples"
    assert not any(note in text for text in found["notes"])
    for first, second in (("run", "second"), ("second", "run")):
        notes = tl.evaluate(tmp_path / first, compare=tmp_path / second)["notes"]
        assert any(note in text for text in notes)
    other = class_folders(tmp_path / "new", 6, ("cat", "dog"), seed=77)
    given = ["data=folder", f"data.root={other}", "data.num_workers=0"]
    found = tl.evaluate(tmp_path / "run", given, compare=tmp_path / "second")
    assert found["counts"] == {"source": 12}  # of both models, all images of a new folder
    assert found["comparison"]["source"]["samples"] == 12
    assert not any(note in text for text in found["notes"])
