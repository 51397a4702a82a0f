"""Runs whose main task is regression, ordered levels or several labels, from training to files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

import tl_lightning as tl
from helpers import config, evaluated, plain_config, same, stopped_at, weights
from tiny_texts import BAD, GOOD, sentence, text_config, tiny_bert
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.config.validation.combinations import combination_problems
from tl_lightning.errors import ConfigError, DataError, TransferError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.inference.export.settings import Settings
from tl_lightning.inference.export.write import export_model
from tl_lightning.inference.publish import publish
from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.sweep.summary import summarise
from tl_lightning.reporting.sweep.tables import to_markdown
from tl_lightning.reporting.verdict import run_verdict
from tl_lightning.training import fit as training

WEIGHTS = np.array([[3.0, 1.0], [-2.0, 0.0], [0.0, 5.0], [1.0, 1.0]])


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Vectors with two numbers that are linear in them, the second one far from standardised."""
    folder = tmp_path_factory.mktemp("vectors")
    random = np.random.default_rng(0)
    arguments = [
        "data=vectors", "task=regression", "data.batch_size=32", "optimizer.lr=0.03",
        "backbone.widths=[]", "trainer.max_epochs=6",
    ]  # fmt: skip
    for role, shift in (("source", 0.0), ("target", 0.5)):
        x = random.normal(size=(400, 4)).astype(np.float32) + shift
        np.savez(folder / f"{role}.npz", x=x, y=x @ WEIGHTS * [1.0, 100.0] + [20.0, 5000.0])
        arguments.append(f"data.{role}.train={folder / role}.npz")
    return arguments


def settings(arguments: list[str], *more: str) -> dict[str, Any]:
    """Return the configuration of a short run on the CPU."""
    found = plain_config(*arguments, *more)
    plain = config()
    for key in ("callbacks", "report", "checkpointing"):
        found[key] = plain[key]
    found["trainer"] |= {"accelerator": "cpu", "precision": "32-true"}
    return found


@pytest.fixture(scope="module")
def run(vectors: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    training.fit(settings(vectors, "model=source_only"), folder)
    return folder


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.slow
def test_linear_relation_is_recovered_in_the_unit_of_the_labels(run: Path) -> None:
    report = report_of(run)
    assert report["selection"]["monitor"] == "source/val/loss"
    assert report["metrics"]["target/test/r2"] > 0.99
    assert report["numbers"]["names"] == ["y1", "y2"]
    found = report["numbers"]["target"]["metrics"]
    assert found["y2"]["mae"][0] == pytest.approx(report["metrics"]["target/test/mae_y2"], rel=1e-4)
    points = report["numbers"]["target"]["points"]
    assert np.mean(points["true"][1]) == pytest.approx(5300, abs=300)
    rows = lines(run / "predictions.csv")
    assert float(rows[0]["y2"]) == pytest.approx(float(rows[0]["label y2"]), abs=300)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [
    "dann,coral,mmd,afn,bsp,rsd,dare_gram", "adda", "wdgrl",
])  # fmt: skip
def test_methods_that_use_only_features_adapt_numbers(vectors, methods: str, tmp_path) -> None:
    wide = ["backbone.widths=[64]", "trainer.max_epochs=1", "model=domain_adaptation"]
    report = training.fit(settings(vectors, *wide, f"method=[{methods}]"), tmp_path)
    assert np.isfinite(report["metrics"]["target/test/mae"])
    curves = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert all(f"train/{name}" in curves for name in methods.split(","))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["iwcv", "dev", "distance"])
def test_rules_that_compare_the_domains_select_an_epoch(vectors, rule: str, tmp_path: Path) -> None:
    given = ["model=domain_adaptation", "method=[coral]", f"selection={rule}"]
    report = training.fit(settings(vectors, *given), tmp_path)
    assert report["selection"]["monitor"] == f"validator/floored/{rule}"
    assert report["selection"]["value"] > -1000
    assert f"<b>{rule}</b>: lowest" in write_page(tmp_path).read_text()
    assert "validators" in report["config"]["callbacks"]


def test_the_rule_by_distance_is_refused_for_classes() -> None:
    words = r"selection=distance is a rule for labels that are not classes, but task=classification"
    with pytest.raises(ConfigError, match=words):
        validation.check(config("model=source_only", "selection=distance"))


def test_predictor_returns_numbers(run: Path) -> None:
    rows = tl.predict(run, np.eye(4, dtype=np.float32))
    assert [name for name, _ in rows[0].values] == ["y1", "y2"]
    assert dict(rows[2].values)["y2"] == pytest.approx(5500, abs=60)
    assert rows[0].label is None
    assert not rows[0].error
    with pytest.raises(ConfigError, match=r"top=3 is for classes, but the model has task=regress"):
        tl.predict(run, np.eye(4, dtype=np.float32), top=3)


@pytest.mark.slow
def test_evaluation_reproduces_the_metrics(run: Path, tmp_path: Path) -> None:
    report = report_of(run)
    found = evaluation.evaluate(run / report["selection"]["checkpoint"], out=tmp_path / "out")
    assert found["metrics"] == evaluated(report)
    assert found["numbers"]["target"] == report["numbers"]["target"]
    rows = lines(tmp_path / "out" / "predictions.csv")
    assert set(rows[0]) == {"domain", "file", "y1", "y2", "label y1", "label y2"}
    for written in (
        [row for row in rows if row["domain"] == "target"],
        lines(run / "predictions.csv"),
    ):
        numbers = np.array([[row["y1"], row["y2"]] for row in written]).astype(np.float32)
        assert np.array_equal(numbers, found["values"]["target"])  # all digits of float32
    with pytest.raises(ConfigError, match=r"corruptions is for classes, but the model has task"):
        evaluation.evaluate(run / report["selection"]["checkpoint"], corruptions=True)


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run(
    vectors: list[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_at(monkeypatch, 3, 2):
        training.fit(settings(vectors, "model=source_only"), tmp_path)
    resumed = training.fit(settings(vectors, "model=source_only", "resume=auto"), tmp_path)
    assert resumed["metrics"] == report_of(run)["metrics"]
    last = "checkpoints/last.ckpt"
    assert same(weights(run / last), weights(tmp_path / last))


@pytest.mark.slow
def test_page_and_verdict(run: Path) -> None:
    report = report_of(run)
    page = write_page(run).read_text()
    assert "mean absolute error" in page
    assert "No predictions.npz found" not in page
    base = {**report, "name": "source_only"}
    own = {**report, "name": "dann", "metrics": {"target/test/mae": 1.0}}
    base["metrics"] = {"target/test/mae": 1.5}
    verdict = run_verdict(own, [base])
    assert verdict == (
        "dann has a mean absolute error 0.5 lower than source-only with one seed; the spread over "
        "seeds is unknown."
    )
    table = to_markdown(summarise([{**own, "folder": "a"}, {**base, "folder": "b"}]))
    assert "Mean absolute error in the unit of the labels (lower is better)" in table
    assert "| 1 | " in table


@pytest.mark.slow
def test_commands_for_classes_refuse_numbers(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tl-export is for models that predict classes, but .*"
                       "task=regression; use tl-predict"):  # fmt: skip
        export_model(run, Settings(out=tmp_path / "export"))
    with pytest.raises(ConfigError, match=r"tl-publish is for models that predict classes"):
        publish(run, tmp_path / "published")


@pytest.mark.parametrize(("more", "words"), [
    (["model=auto"], r"model=auto compares classifiers, but task=regression"),
    (["model=domain_adaptation", "method=[mcc]"],
     r"mcc needs classes, but task=regression; set method"),
    (["loss=focal"], r"is a loss for task=classification or ordinal, but task=regression; set "
     "loss=squared_error"),
    (["data=digits"], r"task=regression needs numbers, but data=digits has one class per sample; "
     "set data=csv"),
    (["selection=bnm"], r"selection=bnm is a rule for classes, but task=regression; set selection"),
    (["selection=snd"], r"one of source_val, iwcv, dev, distance, last, oracle"),
    (["label_shift=prior"], r"label_shift=prior is for classes, but task=regression; set "
     "label_shift=none"),
    (["data.sampling=class_balanced"], r"data.sampling=class_balanced is for classes"),
    (["data.target.classes=open"], r"data.target.classes=open is for classes"),
    (["+metrics.kappa._target_=torchmetrics.classification.MulticlassCohenKappa"],
     r"metrics.kappa is a metric of classes"),
    (["+task.levels=[a,b]", "+task.level=1"], r"task.level is not a setting; did you mean"),
    (["task=ordinal", "data.sampling=uniform", "loss=squared_error"],
     r"is a loss for task=regression, but task=ordinal; set loss=coral"),
    (["+task.levels=[a,b]"], r"task.levels=\['a', 'b'\] are for task=ordinal, but task=regression"),
    (["task=ordinal", "task.levels=[a,a]"], r"must be at least two distinct levels; set task.lev"),
    (["task=ordinal", "data.target.classes=open"],
     r"data.target.classes=open allows unknown classes, .* set data.target.classes=same or subset"),
    (["head_init=probe"], r"head_init=probe is for classes, but task=regression; set head_init=ra"),
])  # fmt: skip
def test_settings_that_only_classes_have(vectors: list[str], more: list[str], words: str) -> None:
    kept = [one for one in vectors if "digits" not in str(more) or not one.startswith("data")]
    kept = [one for one in kept if "digits" not in str(more) or "widths" not in one]
    model = [] if any(one.startswith("model=") for one in more) else ["model=source_only"]
    with pytest.raises(ConfigError, match=words):
        validation.check(compose([*kept, *model, *more]))


@pytest.mark.slow
def test_ordered_levels_need_a_head_whose_last_layer_is_known() -> None:
    run = validation.check(config("task=ordinal", "model=source_only"))
    head = replace(run.nodes["head"], cls=torch.nn.Identity)
    found = list(combination_problems(replace(run, nodes={**run.nodes, "head": head})))
    assert found[-1].startswith("task=ordinal replaces the last layer of a tl_lightning.tasks.head")


# -- tables ----------------------------------------------------------------------------------
def table(folder: Path, **changes: str) -> list[str]:
    """Write images of one grey each and a table with their brightness; return the settings."""
    random = np.random.default_rng(0)
    lines = ["path,brightness,tags,grade,domain"]
    for domain in ("day", "night"):
        for number in range(24):
            value = int(random.integers(0, 200))
            pixels = np.full((16, 16, 3), value, np.uint8)
            pixels[::2] += 20  # not constant
            path = f"{domain}{number}.png"
            Image.fromarray(pixels).save(folder / path)
            tags = ";".join(["bright"] * (value > 100) + ["even"] * (number % 2 == 0)) or ";"
            grade = "low" if value < 70 else "middle" if value < 140 else "high"
            row = changes.get(path, f"{value / 10},{tags},{grade}")
            lines.append(f"{path},{row},{domain}")
    (folder / "list.csv").write_text("\n".join(lines))
    return [
        "data=csv", f"data.table={folder / 'list.csv'}", "data.source.domain=day",
        "data.target.domain=night", "data.num_workers=0", "data.batch_size=8",
        "backbone=tiny_cnn", "backbone.size=16", "trainer.max_epochs=1", "cache.images=off",
    ]  # fmt: skip


BRIGHTNESS = ("task=regression", "data.columns.label=brightness")


@pytest.mark.slow
def test_images_of_a_table_with_several_labels(tmp_path: Path) -> None:
    arguments = table(tmp_path)
    several = ["task=multi_label", "data.columns.label=tags", "model=joint_bn"]
    report = training.fit(settings(arguments, *several), tmp_path / "run")
    assert {f"target/test/{name}" for name in ("acc", "f1", "map")} <= set(report["metrics"])
    assert "estimated_accuracy" not in report
    row = tl.predict(tmp_path / "run", [tmp_path / "day0.png"])[0]
    chances = dict(row.values)
    assert set(chances) == {"bright", "even"}
    assert row.label == ";".join(name for name, chance in chances.items() if chance > 0.5)
    write_page(tmp_path / "run")


@pytest.mark.slow
def test_images_of_a_table_with_ordered_levels(tmp_path: Path) -> None:
    arguments = table(tmp_path)
    levels = ["task=ordinal", "data.columns.label=grade", "task.levels=[low,middle,high]"]
    report = training.fit(settings(arguments, *levels, "model=source_only"), tmp_path / "run")
    assert report["dataset"]["classes"] == ["low", "middle", "high"]
    assert 0 <= report["metrics"]["target/test/mae"] <= 2
    row = tl.predict(tmp_path / "run", [tmp_path / "day0.png"], top=3)[0]
    expected = sum(["low", "middle", "high"].index(name) * chance for name, chance in row.top)
    assert dict(row.values) == {"number": pytest.approx(expected)}
    checkpoint = tmp_path / "run" / report["selection"]["checkpoint"]
    assert evaluation.evaluate(checkpoint)["metrics"] == evaluated(report)


@pytest.mark.slow
def test_target_without_numbers_is_predicted(tmp_path: Path) -> None:
    changes = {f"night{number}.png": ",;,low" for number in range(24)}
    arguments = table(tmp_path, **changes)
    report = training.fit(settings(arguments, *BRIGHTNESS, "model=dann"), tmp_path / "run")
    assert "source/test/mae" in report["metrics"]
    assert "target/test/mae" not in report["metrics"]
    rows = lines(tmp_path / "run" / "predictions.csv")
    assert len(rows) == 24
    assert set(rows[0]) == {"file", "brightness"}
    write_page(tmp_path / "run")
    words = r"selects by target loss, but the validation samples .* set selection=iwcv"
    with pytest.raises(ConfigError, match=words):
        training.fit(
            settings(arguments, *BRIGHTNESS, "model=dann", "selection=oracle"), tmp_path / "oracle"
        )


@pytest.mark.slow
def test_texts_of_a_table(tmp_path: Path) -> None:
    rows = [f"{sentence((GOOD, BAD)[k % 2], k)},{5 - 4 * (k % 2) + k / 100}" for k in range(24)]
    (tmp_path / "list.csv").write_text("\n".join(["text,stars", *rows]))
    report = training.fit(
        text_config(
            tiny_bert(tmp_path / "bert"), "data=text_csv", f"data.table={tmp_path / 'list.csv'}",
            "data.columns.label=stars", "task=regression", "model=source_only",
        ),
        tmp_path / "run",
    )  # fmt: skip
    assert report["numbers"]["names"] == ["stars"]
    assert 0 < report["metrics"]["source/test/mae"] < 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning; a run ignores them
def test_model_for_a_trainer_of_your_own(vectors: list[str], tmp_path: Path) -> None:
    file = next(one.partition("=")[2] for one in vectors if "source.train" in one)
    data = tl.create("data", "vectors", source={"train": file})
    model = tl.create("model", "source_only", data=data, overrides=["task=regression"])
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    assert {"source/val/mae", "source/val/loss"} <= trainer.callback_metrics.keys()
    with pytest.raises(ConfigError, match=r"task=regression needs numbers, but data=custom has"):
        tl.create("model", "source_only", classes=2, overrides=["task=regression"])


@pytest.mark.parametrize(("changes", "more", "words"), [
    ({"day1.png": "dark,;,low"}, [], r"list.csv has 1 row\(s\) with a label that is not a finite "
     r"number \(with a decimal point\): line 3 'dark'; fix or remove them"),
    ({"day1.png": "inf,;,low"}, [], r"a label that is not a finite number .*: line 3 'inf'"),
    ({"day1.png": "nan,;,low"}, [], r"list.csv has 1 row\(s\) with an empty label: line 3; fix or"),
    ({"night1.png": ",;,low"}, [], r"with an empty label next to labelled rows of the same domain"),
    ({}, ["data.columns.label=brightnes"], r"no column 'brightnes' .*did you mean 'brightness'"),
    ({f"day{n}.png": "3,;,low" for n in range(24)}, [],
     r"data.columns.label=brightness: brightness is 3 for all training samples of the source"),
])  # fmt: skip
def test_tables_that_cannot_be_learned(tmp_path, changes, more, words) -> None:
    arguments = [*table(tmp_path, **changes), *BRIGHTNESS, *more, "model=source_only"]
    with pytest.raises(TransferError, match=words):
        training.fit(settings(arguments), tmp_path / "run")


@pytest.mark.parametrize(("labels", "words"), [
    (np.array([1.0, np.nan, 3.0, 4.0]), r"1 of 4 vectors have no label, the first is in row 1"),
    (np.array([1.0, np.inf, 3.0, 4.0]), r"1 row\(s\) have a label that is not a finite number"),
    (np.array(["1", "2", "x", "4"]), r"the first is x in row 2 \(counted from 0\)"),
    (np.array([1.0, 2.0, 3.0]), r"contains 4 vectors but 3 labels"),
])  # fmt: skip
def test_vectors_with_invalid_labels(tmp_path: Path, labels: Any, words: str) -> None:
    np.savez(tmp_path / "x.npz", x=np.eye(4), y=labels)
    file = f"data.source.train={tmp_path / 'x.npz'}"
    with pytest.raises(DataError, match=words):
        training.fit(
            settings(["data=vectors", "task=regression", file, "model=source_only"]), tmp_path / "r"
        )
