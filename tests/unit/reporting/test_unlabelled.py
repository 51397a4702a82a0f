"""Page, terminal output and sweep table of runs whose target has no labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_lightning.callbacks.contact_sheet import sheet_of
from tl_lightning.reporting.artifacts import Predictions
from tl_lightning.reporting.console import print_metrics, report_folder
from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.run.unlabelled import changed_sentence, unlabelled_figures
from tl_lightning.reporting.sweep.summary import summarise
from tl_lightning.reporting.sweep.tables import cells, to_csv, to_markdown

CLASSES = ("ant", "bee", "cat")
MakeRun = Callable[..., Path]
SCORES = {"source/test/acc": 0.9, "target/test/entropy": 0.5, "target/test/im": 0.25}


def predicted(pred: list[int]) -> dict[str, Any]:
    counts = {name: pred.count(label) for label, name in enumerate(CLASSES)}
    return {"target": {"samples": len(pred), "confidence": 0.75, "classes": counts}}


@pytest.fixture
def unlabelled(make_run: MakeRun) -> MakeRun:
    """Return a function that writes a run with the given predictions for the target."""

    def build(pred: list[int], folder: str = "run", texts: bool = False, **values: Any) -> Path:
        given = {"classes": CLASSES, "target": None, "metrics": SCORES, "rule": "bnm"}
        run = make_run(folder, full=True, predicted=predicted(pred), **{**given, **values})
        with np.load(run / "predictions.npz") as stored:
            arrays = {key: stored[key] for key in stored.files if "_target" not in key}
        confidence = np.linspace(0.4, 0.9, len(pred)).astype(np.float32)
        arrays |= {"target_true": np.full(len(pred), -1), "target_pred": np.array(pred)}
        arrays["target_confidence"] = confidence
        arrays["target_name"] = np.array([f"{k}.jpg" for k in range(len(pred))])
        shown = sheet_of({k: (-1, pred[k], confidence[k]) for k in range(len(pred))})
        if texts:
            arrays["examples_target_text"] = np.array([f"text {k}" for k in shown])
        else:
            arrays["examples_target"] = np.zeros((len(shown), 8, 8, 3), dtype=np.uint8)
        arrays["examples_target_true"] = np.full(len(shown), -1)
        arrays["examples_target_pred"] = np.array(pred)[shown]
        arrays["examples_target_confidence"] = confidence[shown]
        np.savez(run / "predictions.npz", **arrays)
        return run

    return build


def visible(page: Path) -> str:
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page.read_text(), flags=re.DOTALL)
    return " ".join(text.split())


@pytest.mark.slow
def test_page_shows_predictions_and_no_accuracy_of_the_target(unlabelled: MakeRun) -> None:
    run = unlabelled([0, 0, 0, 0, 2, 2])
    (run / "predictions.csv").touch()
    text = visible(write_page(run))
    assert "Target predictions, without labels 6 samples" in text
    assert "mean confidence 75.0 %; 2 of 3 classes predicted" in text
    assert "All 6 predictions are in predictions.csv" in text
    assert "Never predicted: bee." in text
    assert "ant 4 66.7 % cat 2 33.3 % bee 0 0.0 %" in text
    assert "accuracy on the target is unknown" in text
    assert "Target test accuracy" not in text
    assert "true: -1" not in text  # a label that does not exist
    written = {path.stem for path in (run / "figures").iterdir()}
    assert written >= {"class_mix_target", "confidence_target", "confusion_source"}
    assert not written & {"confusion_target", "examples_target", "class_change"}


def test_contact_sheet_is_sorted_by_class_and_confidence(unlabelled: MakeRun) -> None:
    text = visible(write_page(unlabelled([2, 0, 0, 2, 0, 1])))
    sheet = text.partition("from the most to the least confident")[2]
    expected = "ant 3 predicted 80 % 60 % 50 % cat 2 predicted 70 % 40 % bee 1 predicted 90 %"
    assert sheet.strip().startswith(expected)


def test_texts_have_a_contact_sheet_too(unlabelled: MakeRun) -> None:
    text = visible(write_page(unlabelled([1, 1, 0], texts=True)))
    assert "bee 2 predicted text 1 65 % text 0 40 % ant 1 predicted text 2 90 %" in text


def test_sheet_spans_the_confidence_of_frequent_classes() -> None:
    many = {k: (-1, k % 40, k / 1000) for k in range(1000)}
    chosen = sheet_of(many)
    assert len(chosen) == 12 * 4
    first = [k for k in chosen if k % 40 == 0]
    assert first == [960, 640, 320, 0]  # from the most to the least confident one
    assert len(sheet_of({k: (-1, 0, k / 100) for k in range(100)})) == 8
    assert sheet_of({}) == []


@pytest.mark.slow
def test_page_counts_changes_from_source_only(unlabelled: MakeRun) -> None:
    run = unlabelled([0, 0, 2, 2])
    unlabelled([0, 1, 2, 2], folder="run/baselines/source_only", name="source_only")
    text = visible(write_page(run))
    assert "differs from that of source-only for 1 of 4 target samples (25.0 %)" in text
    assert "– 90.0 %" in text  # no target accuracy in the rows of the baselines
    arrays = {"target_pred": np.array([0, 1]), "target_name": np.array(["a", "b"])}
    other = {**arrays, "target_name": np.array(["a", "c"])}
    assert changed_sentence(Predictions(arrays, []), Predictions(other, [])) is None
    assert changed_sentence(Predictions(arrays, []), Predictions({}, [])) is None


@pytest.mark.parametrize("size", [2, 30])
def test_figures_with_any_number_of_classes(size: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"class {k}" for k in range(size)]
    arrays = {"target_pred": rng.integers(0, size, 50), "target_confidence": rng.random(50)}
    alone = unlabelled_figures(Predictions(arrays, names), "target")
    arrays |= {"source_true": rng.integers(0, size, 9), "source_pred": rng.integers(0, size, 9)}
    both = unlabelled_figures(Predictions(arrays, names), "target")
    assert set(alone) == set(both) == {"class_mix_target", "confidence_target"}
    assert alone["class_mix_target"] != both["class_mix_target"]  # marks of the source
    assert unlabelled_figures(Predictions({}, names), "target") == {}


def test_terminal_shows_the_mix_and_how_to_get_an_accuracy(unlabelled: MakeRun, capsys) -> None:
    run = unlabelled([0, 0, 0, 2])
    (run / "predictions.csv").touch()
    report_folder(run)
    out = capsys.readouterr().out
    assert re.search(r"target test \(no labels\) +│ +– │.*0\.5 │ +0\.25 │", out)
    assert "target without labels: 4 samples predicted, mean confidence 75.0 %" in out
    assert "predicted classes: ant 3 (75.0 %), cat 1 (25.0 %); never: bee" in out
    assert f"predictions: {run}/predictions.csv" in out
    advice = "run tl-evaluate checkpoint=<this folder> data.target.test=<labelled samples>"
    assert out.strip().endswith(f"has no labels; {advice}")


def test_sweep_has_dashes_instead_of_accuracies(make_report) -> None:
    given = {"target": None, "metrics": SCORES, "predicted": predicted([0, 1])}
    runs = [make_report(name, seed, **given) for name in ("source_only", "dann") for seed in (0, 1)]
    runs += [make_report("mmd", seed, target=0.5) for seed in (0, 1)]
    runs += [make_report("source_only", seed, target=0.4, data="x") for seed in (0, 1)]
    summary = summarise(runs)
    shown = {row.label: cells(row) for row in summary.rows if row.data != "x"}
    assert shown["dann"][3:7] == ["–", "90.0 ± 0.0", "–", "–"]
    assert shown["mmd"][3] == "50.0 ± 0.0"
    assert any("a target without labels, hence no target accuracy" in n for n in summary.notes)
    assert not any(sentence.startswith("dann") for sentence in summary.verdicts)
    assert "| dann | digits | 0, 1 | – | 90.0 ± 0.0 | – | – |" in to_markdown(summary)
    line = next(line for line in to_csv(summary).splitlines() if line.startswith("dann"))
    assert ",0.0," not in line.partition("0.9")[0]


@pytest.mark.slow
def test_old_reports_have_no_predictions_without_labels(make_run: MakeRun) -> None:
    assert "without labels" not in visible(write_page(make_run(full=True)))


@pytest.mark.parametrize(("task", "metrics", "shown", "hidden"), [
    ("classification", {"target/test/im": 0.5}, ["target test (no labels)", "recall", "–"], []),
    ("multi_label", {"target/test/acc": 0.5, "target/test/f1": 0.4}, ["target test ", "f1"],
     ["no labels", "recall", "–"]),
    ("regression", {"target/test/mae": 2.0}, ["target test ", "mae"], ["no labels", "acc"]),
])  # fmt: skip
def test_columns_of_the_terminal_depend_on_the_task(task, metrics, shown, hidden, capsys) -> None:
    print_metrics(metrics, title="run", task=task)
    out = capsys.readouterr().out
    assert all(text in out for text in shown)
    assert not any(text in out for text in hidden)
