"""The estimated accuracy of a run compared with its baselines."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from helpers import config
from tl_lightning.cli import train
from tl_lightning.reliability.accuracy import COMPARED, estimate_accuracy
from tl_lightning.reporting.artifacts import read_predictions
from tl_lightning.reporting.estimates import estimated_accuracy
from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.schema import read_report
from tl_lightning.sweeps import baselines
from tl_lightning.sweeps.baselines import fit_with_baselines
from tl_lightning.training.reliability import compare_models


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("run")
    cfg = OmegaConf.create(config("model=dann", "baselines=[source_only,joint_bn,oracle]"))
    return fit_with_baselines(cfg, folder, sweeping=False), folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def arrays(folder: Path) -> dict:
    return read_predictions(folder / "predictions.npz", []).arrays


def change(folder: Path, **values: object) -> None:
    """Change arrays of a run's predictions."""
    np.savez(folder / "predictions.npz", **{**arrays(folder), **values})


@pytest.mark.slow
def test_the_estimate_is_that_with_the_logits_of_the_other_models(finished) -> None:
    report, folder = finished
    given = report["estimated_accuracy"]
    models = given["compared_with"]["models"]
    assert [one["name"] for one in models] == ["joint_bn", "source_only"]  # not the oracle
    assert [one["folder"] for one in models] == ["baselines/joint_bn", "baselines/source_only"]
    run, *others = (arrays(folder / one) for one in (".", *(one["folder"] for one in models)))
    found = estimate_accuracy(
        run["source_val_logits"].astype(float), run["source_val_true"],
        run["target_logits"].astype(float),
        other_logits=[other["target_logits"].astype(float) for other in others],
    )  # fmt: skip
    assert (given["value"], given["low"], given["high"]) == (found.value, found.low, found.high)
    predicted = run["target_logits"].argmax(1)
    same = [(predicted == other["target_logits"].argmax(1)).mean() for other in others]
    assert [one["agreement"] for one in models] == same
    assert given["compared_with"]["agreement"] == np.median(same) == given["estimators"]["other"]
    assert given["value"] <= np.median(same)
    assert not any("compare it with one" in text for text in given["warnings"])
    assert read_report(folder)["estimated_accuracy"]["value"] == given["value"]


@pytest.mark.slow
def test_page_names_the_other_models(finished) -> None:
    page = write_page(finished[1]).read_text()
    names = "joint_bn (baselines/joint_bn) and source_only (baselines/source_only)"
    assert f"Compared with {names}, which predict the same class for" in page
    assert "so the estimate is not higher than the median" in page
    assert "Without the comparison it is" in page


def test_checkpoint_has_the_temperature_of_the_compared_estimate(finished) -> None:
    report, folder = finished
    stored = torch.load(folder / report["selection"]["checkpoint"], weights_only=True)
    found = stored["reliability"]["target_temperature"]
    assert found == report["calibration"]["temperature"]["target"]


def test_repeating_it_changes_nothing(copied) -> None:
    """Also after a run was killed between the baselines and the comparison."""
    once = (copied / "report.json").read_bytes()
    file = copied / json.loads(once)["selection"]["checkpoint"]
    checkpoint = file.read_bytes()
    compare_models(copied)
    assert (copied / "report.json").read_bytes() == once
    assert file.read_bytes() == checkpoint


def test_labels_of_the_target_change_nothing(copied) -> None:
    before = compare_models(copied)["estimated_accuracy"]
    for folder in (copied, *(copied / "baselines").iterdir()):
        change(folder, target_true=np.full_like(arrays(folder)["target_true"], -1))
    shutil.rmtree(copied / "baselines" / "oracle")
    assert compare_models(copied)["estimated_accuracy"] == before


@pytest.mark.slow
def test_baseline_on_other_samples_is_refused(copied) -> None:
    folder = copied / "baselines" / "joint_bn"
    change(folder, target_name=arrays(folder)["target_name"][::-1])
    found = compare_models(copied)["estimated_accuracy"]
    assert [one["name"] for one in found["compared_with"]["models"]] == ["source_only"]
    assert "joint_bn was not compared: it was tested on other samples." in found["warnings"]
    assert "Compared with source_only (baselines/source_only), which predicts the same class" in (
        write_page(copied).read_text()
    )


def test_baseline_on_other_data_is_refused(copied) -> None:
    for folder in (copied / "baselines").iterdir():
        report = json.loads((folder / "report.json").read_text())
        report["dataset"]["fingerprint"] = "other"
        (folder / "report.json").write_text(json.dumps(report))
    found = compare_models(copied)["estimated_accuracy"]
    assert sum("tested on other samples" in text for text in found["warnings"]) == 2
    assert compare_models(copied)["estimated_accuracy"]["warnings"] == found["warnings"]


def test_damaged_baseline_is_named(copied) -> None:
    (copied / "baselines" / "joint_bn" / "predictions.npz").write_bytes(b"cut")
    found = compare_models(copied)["estimated_accuracy"]
    assert [one["name"] for one in found["compared_with"]["models"]] == ["source_only"]
    assert any(text.startswith("joint_bn was not compared: ") for text in found["warnings"])


def test_copies_and_models_of_the_same_name_are_not_compared(copied) -> None:
    names = [path.name for path in (copied / "baselines").iterdir()]
    for name in names:
        change(copied / "baselines" / name, target_logits=arrays(copied)["target_logits"])
    assert compare_models(copied) == {}
    for name in names:
        file = copied / "baselines" / name / "report.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "name": "dann"}))
        change(copied / "baselines" / name, target_logits=-arrays(copied)["target_logits"])
    assert compare_models(copied) == {}


def test_run_without_baselines_is_estimated_alone(tmp_path) -> None:
    report = fit_with_baselines(OmegaConf.create(config("model=dann")), tmp_path, sweeping=False)
    assert "compared_with" not in report["estimated_accuracy"]
    assert estimated_accuracy(report) is not None
    assert COMPARED.limit == "other"


@pytest.mark.slow
def test_job_of_a_sweep_killed_before_the_comparison_is_completed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    cfg = OmegaConf.create(config("model=dann", "baselines=[source_only]"))
    with monkeypatch.context() as patched:
        patched.setattr(baselines, "compare_models", lambda folder: {})
        report = fit_with_baselines(cfg, tmp_path, sweeping=True)
    assert "compared_with" not in read_report(tmp_path)["estimated_accuracy"]
    train._job(cfg, tmp_path, True, [])
    train.page_writer.wait()
    found = read_report(tmp_path)
    (model,) = found["estimated_accuracy"]["compared_with"]["models"]
    assert model["name"] == "source_only"
    assert found["metrics"] == report["metrics"]
    assert "Compared with source_only" in (tmp_path / "report.html").read_text()
