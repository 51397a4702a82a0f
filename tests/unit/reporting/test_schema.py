"""Reading of reports, metrics and predictions, and atomic JSON files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_lightning.errors import DataError
from tl_lightning.reporting import schema
from tl_lightning.reporting.artifacts import read_curves, read_predictions
from tl_lightning.utils import files


def test_report_round_trip(make_run: Any, make_report: Any) -> None:
    run = make_run()
    assert schema.read_report(run) == make_report()
    assert schema.read_report(run / "report.json") == make_report()


def test_numpy_values_and_paths_become_plain_json(tmp_path: Path) -> None:
    values = {"a": np.float32(0.5), "b": np.arange(2), "c": Path("x"), "d": (float("inf"), True)}
    path = files.write_json(tmp_path / "a.json", values)
    assert files.read_json(path) == {"a": 0.5, "b": [0, 1], "c": "x", "d": [None, True]}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = files.write_text(tmp_path / "page.html", "old")

    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_unserialisable_data_leaves_the_old_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"x": object()})
    assert files.read_json(tmp_path / "a.json") == {"x": 1}


def test_missing_report_error_lists_the_folder(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").touch()
    with pytest.raises(
        DataError, match=r"report\.json not found .*contains metrics\.csv.*tl-report"
    ):
        schema.read_report(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        schema.read_report(tmp_path / "nowhere")


def test_corrupt_report_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"schema": 1,')
    with pytest.raises(DataError, match=r"not valid JSON.*truncated.*run again"):
        schema.read_report(tmp_path)
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(DataError, match="must contain a JSON object, got a list"):
        schema.read_report(tmp_path)


def test_unknown_schema_and_kind_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"schema": 99, "versions": {"tl_lightning": "9.0"}}))
    with pytest.raises(DataError, match=r"schema 99, .*reads schema 1.*tl_lightning: 9\.0"):
        schema.read_report(tmp_path)
    path.write_text(json.dumps({"schema": 1, "kind": "sweep"}))
    with pytest.raises(DataError, match="of kind 'sweep', not 'run'"):
        schema.read_report(tmp_path)


def test_error_names_the_non_numeric_cell(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,0,1.5\n0,1,oops\n")
    with pytest.raises(DataError, match="line 3: column 'train/loss' must be a number, got 'oops'"):
        read_curves(tmp_path / "metrics.csv")


def test_read_curves_skips_empty_cells_and_fills_missing_epochs(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,lr,loss\n,0,0.1,\n0,1,,2.0\n0,2,,4.0\n,3,0.2,\n1,4,,1.0\n,5,0.3\n"
    )
    curves = read_curves(tmp_path / "metrics.csv")
    assert curves["lr"].value.tolist() == [0.1, 0.2, 0.3]
    assert curves["lr"].epoch.tolist()[:2] == [0, 1]
    epochs, means = curves["loss"].per_epoch()
    assert (epochs.tolist(), means.tolist()) == ([0, 1], [3.0, 1.0])
    assert read_curves(tmp_path / "absent.csv") == {}


def test_corrupt_predictions_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match=r"predictions\.npz cannot be read.*truncated"):
        read_predictions(path, [])
    np.savez(path, target_true=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="plain arrays"):
        read_predictions(path, [])


def test_confusion_matches_a_loop_and_ignores_unlabelled_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    true, pred = rng.integers(-1, 4, 200), rng.integers(0, 4, 200)
    np.savez(tmp_path / "p.npz", target_true=true, target_pred=pred)
    counts = read_predictions(tmp_path / "p.npz", ["a"]).confusion("target")
    expected = np.zeros((4, 4), dtype=int)
    for t, p in zip(true, pred, strict=True):
        if t >= 0:
            expected[t, p] += 1
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.slow
def test_report_modules_import_no_heavy_packages() -> None:
    heavy = "{'torch', 'lightning', 'torchvision', 'torchmetrics', 'matplotlib'}"
    code = (
        "import sys, tl_lightning.reporting.run.page, tl_lightning.reporting.sweep.page;"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "value"), [
    ("metrics", "x"), ("selection", [1]), ("notes", {"a": 1}), ("dataset", 3),
    ("metrics", {"source/test/acc": "<script>"}),
])  # fmt: skip
def test_report_with_values_of_other_types_is_rejected(name, value, tmp_path: Path) -> None:
    report = {"schema": schema.SCHEMA, "kind": "run", name: value}
    files.write_json(tmp_path / "report.json", report)
    with pytest.raises(DataError, match=rf"has {name}.*which is of another type than written by a"):
        schema.read_report(tmp_path)


def test_control_codes_of_a_report_are_escaped(tmp_path: Path) -> None:
    report = {"schema": schema.SCHEMA, "kind": "run", "name": "\x1b[31m", "notes": ["a\x07"]}
    files.write_json(tmp_path / "report.json", report)
    found = schema.read_report(tmp_path)
    assert (found["name"], found["notes"]) == (r"\x1b[31m", [r"a\x07"])
