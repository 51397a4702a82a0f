"""The expected accuracy, calibration and abstention on pages of runs and sweeps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers import config
from tl_lightning.errors import DataError
from tl_lightning.reliability.accuracy import estimate_accuracy
from tl_lightning.reporting.artifacts import Predictions, read_predictions
from tl_lightning.reporting.estimates import estimated_accuracy
from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.run.trust import compared_text, describe_trust, trust_figures
from tl_lightning.reporting.schema import read_report
from tl_lightning.reporting.sweep.estimates import with_comparisons
from tl_lightning.reporting.sweep.page import collect, write_sweep
from tl_lightning.reporting.sweep.summary import summarise
from tl_lightning.reporting.sweep.tables import to_csv, to_markdown
from tl_lightning.training import fit as training

VALUES = {"value": 0.61, "low": 0.52, "high": 0.7, "estimators": {"atc": 0.6}, "warnings": ["W."]}
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    training.fit(config("model=dann", "baselines=[]"), folder)
    return folder


@pytest.mark.slow
def test_labelled_target_has_the_estimate_beside_the_truth(labelled) -> None:
    report = read_report(labelled)
    page = write_page(labelled).read_text()
    found = estimated_accuracy(report)
    assert found is not None
    assert found[1] <= found[0] <= found[2]
    assert "Target accuracy estimated without target labels: <b>" in page
    assert "with the labels it is <b>" in page
    assert "accuracy, estimated without labels" not in page  # not the headline
    for name in ("calibration_source", "calibration_target", "risk_coverage"):
        assert (labelled / "figures" / f"{name}.png").read_bytes().startswith(PNG)
    errors = report["calibration"]["domains"]
    assert errors.keys() == {"source", "target"}
    assert errors["source"]["ece"]["source"] == errors["source"]["ece"]["after"]


def test_headline_of_an_unlabelled_target(labelled, tmp_path) -> None:
    report = json.loads((labelled / "report.json").read_text())
    report["estimated_accuracy"] = VALUES
    report["class_mix"]["warning"] = "The classes differ."
    report["metrics"] = {k: v for k, v in report["metrics"].items() if "target" not in k}
    classes = dict.fromkeys(report["dataset"]["classes"], 1)
    report["predicted"] = {"target": {"samples": 10, "confidence": 0.5, "classes": classes}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = write_page(tmp_path).read_text()
    assert "Target accuracy, estimated without labels" in page
    assert "52 to 70 %, as such estimates erred on other data" in page
    assert "<li>W.</li><li>The classes differ.</li>" in page
    report["estimated_accuracy"] = {"problem": "the model has diverged"}
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = write_page(tmp_path).read_text()
    assert "The target accuracy is not estimated: the model has diverged." in page


def test_sweep_has_a_column_without_target_labels_only(labelled) -> None:
    report = read_report(labelled)
    assert "Estimated target" not in to_markdown(summarise([report]))
    bare = {k: v for k, v in report["metrics"].items() if "target" not in k}
    runs = [
        {**report, "seed": seed, "metrics": bare, "estimated_accuracy": {**VALUES, "value": value}}
        for seed, value in ((0, 0.58), (1, 0.64))
    ]
    runs[1]["estimated_accuracy"] = {**VALUES, "value": 0.64, "high": 0.75}
    summary = summarise(runs)
    assert "| Estimated target |" in to_markdown(summary)
    assert "| 61 % (52 to 75 %) |" in to_markdown(summary)
    assert "target_estimated_value" in to_csv(summary).splitlines()[0]


def test_jobs_of_a_sweep_are_compared_with_each_other(labelled, tmp_path) -> None:
    """As if the target had no labels, and another job had the same model with noise."""
    report = json.loads((labelled / "report.json").read_text())
    report["metrics"] = {k: v for k, v in report["metrics"].items() if "target" not in k}
    classes = dict.fromkeys(report["dataset"]["classes"], 1)
    report["predicted"] = {"target": {"samples": 10, "confidence": 0.5, "classes": classes}}
    arrays = read_predictions(labelled / "predictions.npz", []).arrays
    noise = np.random.default_rng(0).normal(size=arrays["target_logits"].shape)
    for name, logits in (("dann", arrays["target_logits"]), ("mcc", noise)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps({**report, "name": name}))
        np.savez(folder / "predictions.npz", **{**arrays, "target_logits": logits})
    found = {one["name"]: one for one in with_comparisons(collect(tmp_path), tmp_path)}
    given = found["dann"]["estimated_accuracy"]
    (model,) = given["compared_with"]["models"]
    assert (model["name"], model["folder"]) == ("mcc", "mcc")
    expected = estimate_accuracy(
        arrays["source_val_logits"].astype(float), arrays["source_val_true"],
        arrays["target_logits"].astype(float), other_logits=noise,
    )  # fmt: skip
    assert (given["value"], given["high"]) == (expected.value, expected.high)
    assert given["value"] < report["estimated_accuracy"]["value"]
    write_sweep(tmp_path)
    assert "| Estimated target | Compared with |" in (tmp_path / "table.md").read_text()
    assert '<td class="">mcc</td>' in (tmp_path / "index.html").read_text()
    assert read_report(tmp_path / "dann")["estimated_accuracy"] == report["estimated_accuracy"]
    (tmp_path / "mcc" / "predictions.npz").write_bytes(b"cut")
    write_sweep(tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "The estimate of mcc was not compared with other models: " in table
    assert "Compared with |" not in table


def test_older_reports_have_no_section(labelled) -> None:
    assert describe_trust({}) is None
    assert trust_figures(Predictions({}, ["a"]), {}) == {}


def test_edited_estimate_is_an_error() -> None:
    with pytest.raises(DataError, match=r"estimated_accuracy=.* of the report was edited by hand"):
        estimated_accuracy({"estimated_accuracy": {"value": "much", "low": 0, "high": 1}})
    edited = {"models": [{"name": "mcc", "folder": "a"}], "agreement": 0.5, "alone": VALUES}
    with pytest.raises(DataError, match=r"estimated_accuracy\.compared_with=.* was edited by hand"):
        compared_text({"estimated_accuracy": {**VALUES, "compared_with": edited}})


def test_figures_leave_out_rows_that_are_not_finite() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 3))
    logits[:5] = np.nan
    arrays = {"source_logits": logits, "source_true": rng.integers(0, 3, 60)}
    report = {"calibration": {"temperature": {"source": 1.0}}}
    found = trust_figures(Predictions(arrays, ["a", "b", "c"]), report)
    assert found.keys() == {"calibration_source", "risk_coverage"}
    arrays = {name: values[:9] for name, values in arrays.items()}
    assert trust_figures(Predictions(arrays, ["a", "b", "c"]), report) == {}
