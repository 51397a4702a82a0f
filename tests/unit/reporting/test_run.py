from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_lightning.errors import DataError
from tl_lightning.reporting.artifacts import Series
from tl_lightning.reporting.console import report_folder
from tl_lightning.reporting.run import curves, figures
from tl_lightning.reporting.run.class_changes import class_change_figure
from tl_lightning.reporting.run.curves import learning_curves
from tl_lightning.reporting.run.page import write_page
from tl_lightning.utils.files import write_json

PNG = b"\x89PNG\r\n"


class Sources(HTMLParser):
    """Collects every address a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe")


def test_the_page_is_whole_in_itself(make_run: Any) -> None:
    run = make_run(full=True)
    page = write_page(run)
    text = page.read_text()
    assert page == run / "report.html"
    assert not re.search(r"https?://|url\(|@import", text)
    sources = Sources(text).found
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    written = {path.stem for path in (run / "figures").glob("*.png")}
    assert written >= {"losses", "accuracy", "rates", "confusion_target", "confusion_source",
                       "per_class", "features_before", "features_after_classes",
                       "examples_target"}  # fmt: skip
    assert all(path.read_bytes().startswith(PNG) for path in (run / "figures").iterdir())


def test_names_are_escaped(make_run: Any) -> None:
    text = write_page(make_run(full=True, classes=("<b>", "$x_{", "a&b"), name="<i>")).read_text()
    assert "<i>" not in re.sub(r'<i class="\w+" style="[^"]*">', "", text)
    assert "&lt;b&gt;" in text
    assert "<b>✓" not in text
    assert not re.search(r"[✓✗] <b>", text)


def test_a_lone_figure_says_that_it_says_little(make_run: Any) -> None:
    text = write_page(make_run()).read_text()
    assert "no source-only baseline in this folder: a figure without it says little" in text
    assert "bracket=true" in text
    assert "60.0" in text


def test_the_bracket_stands_beside_the_figure(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    make_run("run/bracket/a", name="joint_bn", target=0.65)
    make_run("run/bracket/b", name="source_only", target=0.425)
    (run / "bracket" / "c").mkdir()
    (run / "bracket" / "c" / "failed.json").write_text('{"error": "out of memory"}')
    text = write_page(run).read_text()
    assert "says little" not in text
    assert text.index("source-only") < text.index("joint batch norm")
    assert "+17.5 points" in text
    assert "−5.0 points" in text
    assert "out of memory" in text


def test_the_page_says_in_one_sentence_whether_it_helped(make_run: Any) -> None:
    run = make_run()
    assert "one seed says" not in write_page(run).read_text()
    make_run("run/bracket/a", name="joint_bn", target=0.65)
    assert "dann hurt by 5.0 points against joint batch norm in one" in write_page(run).read_text()
    make_run("run/bracket/b", name="source_only", target=0.425)
    words = "dann helped by 17.5 points over source-only in one seed; one seed says nothing about"
    text = write_page(run).read_text()
    assert text.count(words) == 1
    assert "batch norm in one" not in text


def test_each_class_is_held_against_source_only(make_run: Any) -> None:
    run = make_run(full=True)
    assert "What adaptation changed" not in write_page(run).read_text()
    base = make_run("run/bracket/source_only", full=True, name="source_only", target=0.4)
    with np.load(run / "predictions.npz") as archive:
        arrays = dict(archive)
    arrays["target_pred"] = arrays["target_true"].copy()
    np.savez(run / "predictions.npz", **arrays)
    pred = arrays["target_true"].copy()
    pred[:3] = (1, 0, 2)  # one ant and one bee wrong; the cat right
    np.savez(base / "predictions.npz", **arrays | {"target_pred": pred})
    text = write_page(run).read_text()
    assert "2 of 3 classes gained on source-only, 0 lost. Best: ant (+33.3), bee (+33.3)." in text
    assert (run / "figures" / "class_change.png").read_bytes().startswith(PNG)
    other = arrays["target_true"][::-1].copy()  # not the same pictures
    np.savez(base / "predictions.npz", **arrays | {"target_true": other})
    assert "What adaptation changed" not in write_page(run).read_text()


@pytest.mark.parametrize("size", [2, 24, 60])
def test_the_figure_of_changes_takes_any_number_of_classes(size: int) -> None:
    change = np.random.default_rng(0).uniform(-1, 1, size)
    change[0] = np.nan
    assert class_change_figure(change, [f"class {k}" for k in range(size)]).startswith(PNG)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (1.95, 2.0, "the measure ends at 2, so it cannot say here whether they came closer"),
        (1.95, 1.2, "they came closer"),
        (1.0, 1.5, "they moved apart"),
        (1.0, 1.05, "hardly changed"),
    ],
)
def test_the_distance_says_what_it_means(
    make_run: Any, before: float, after: float, words: str
) -> None:
    run = make_run()
    report = json.loads((run / "report.json").read_text())
    report["metrics"] |= {"health/a_distance_before": before, "health/a_distance_after": after}
    (run / "report.json").write_text(json.dumps(report))
    text = write_page(run).read_text()
    assert f"{before:.2f} before training, {after:.2f} after (0: alike, 2: told apart" in text
    assert words in text


def test_shares_of_the_loss_add_up_and_need_two_terms() -> None:
    epoch = np.array([0.0, 0.0, 1.0])
    step = np.arange(3)
    terms = {
        "total": Series(epoch, step, np.array([9.0, 9.0, 9.0])),
        "task": Series(epoch, step, np.array([1.0, 3.0, 1.0])),
        "dann": Series(epoch, step, np.array([-2.0, -2.0, 3.0])),
    }
    shares = curves.shares(terms)
    assert set(shares) == {"task", "dann"}
    np.testing.assert_allclose(shares["task"].value, [0.5, 0.25])
    np.testing.assert_allclose(shares["dann"].value, [0.5, 0.75])
    assert shares["task"].step.tolist() == [1, 2]
    assert curves.shares({key: terms[key] for key in ("total", "task")}) == {}
    assert curves.shares({"total": terms["total"]}) == {}
    named = {f"train/{key}": value for key, value in terms.items()}
    assert "balance" in learning_curves(named)
    drawn = learning_curves({"train/loss": terms["total"], "train/task": terms["task"]})
    assert "balance" not in drawn


@pytest.mark.parametrize("projection", ["tsne", "umap"])
def test_a_projection_is_named(make_run: Any, projection: str) -> None:
    text = write_page(make_run(full=True, projection=projection)).read_text()
    assert "Principal components" not in text
    assert {"tsne": "A t-SNE map", "umap": "A UMAP map"}[projection] in text


def test_the_bound_stands_last_and_is_marked(make_run: Any) -> None:
    run = make_run()
    make_run("run/bracket/a", name="oracle", target=0.9, learned_from="target")
    make_run("run/bracket/b", name="source_only", target=0.425)
    text = write_page(run).read_text()
    assert text.index("(this run)") < text.index("oracle *")
    assert "learned from target labels" in text
    assert "−30.0 points" in text
    assert "Uses target labels." not in text  # this run did not
    alone = write_page(run / "bracket" / "a").read_text()
    assert "Uses target labels." in alone
    assert "learned from labelled training pictures of the target." in alone


def test_the_end_of_a_run_says_whether_it_helped(make_run: Any, capsys: Any) -> None:
    run = make_run()
    report_folder(run)
    last = capsys.readouterr().out.splitlines()[-1]
    # Not a command of its own: it would lack the data's place and all else that was set.
    assert last.endswith("; type the same command with bracket=true")
    make_run("run/bracket/b", name="source_only", target=0.425)
    report_folder(run)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("dann helped by 17.5 points over source-only in one seed; one seed says")
    report_folder(run / "bracket" / "b")
    assert capsys.readouterr().out.splitlines()[-1].startswith("page: ")


def test_a_score_below_the_floor_is_no_number(make_run: Any) -> None:
    run = make_run(rule="bnm")
    report = json.loads((run / "report.json").read_text())
    report["selection"] |= {"monitor": "validator/floored/bnm", "value": -9999.3}
    write_json(run / "report.json", report)
    text = write_page(run).read_text()
    assert "none: every epoch counted as collapsed" in text
    assert "-9999" not in text
    assert "-1e+04" not in text


@pytest.mark.parametrize(("rule", "loud"), [("oracle", True), ("source_val", False)])
def test_target_labels_in_the_choice_are_marked(make_run: Any, rule: str, loud: bool) -> None:
    text = write_page(make_run(rule=rule)).read_text()
    assert ("Uses target labels." in text) is loud
    assert ("upper bound" in text) is loud


def test_notes_warnings_and_config_are_shown(make_run: Any) -> None:
    run = make_run(warnings=["2 pictures could not be read"], config={"a": {"b": None, "c": [1]}})
    text = write_page(run).read_text()
    assert "synthetic shift (blur)" in text
    assert "2 pictures could not be read" in text
    assert "a.b=null" in text
    assert "a.c=[1]" in text


def test_a_bare_report_still_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"schema": 1, "kind": "run", "name": "x", "data": "y"}')
    text = write_page(tmp_path).read_text()
    assert "reports no test accuracy" in text
    assert "no metrics.csv" in text
    assert "no predictions.npz" in text


def test_a_folder_without_a_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no report\.json"):
        write_page(tmp_path)


def test_source_alone_needs_no_target(make_run: Any) -> None:
    run = make_run(full=True, target=None)
    with np.load(run / "predictions.npz") as archive:
        kept = {key: archive[key] for key in archive.files if "target" not in key}
    kept["features_domain"] = np.zeros(20, dtype=int)
    np.savez(run / "predictions.npz", **kept)
    text = write_page(run).read_text()
    assert "says little" not in text
    assert "Confusion matrix of the source" in text
    assert "Confusion matrix of the target" not in text


def test_the_headline_interval_needs_predictions_that_agree(make_run: Any) -> None:
    run = make_run(full=True)
    with np.load(run / "predictions.npz") as archive:
        exact = float(np.mean(archive["target_true"] == archive["target_pred"]))
    assert "from 9 test items" not in write_page(run).read_text()
    agreeing = make_run("other", full=True, target=exact)
    assert "from 9 test items" in write_page(agreeing).read_text()


@pytest.mark.parametrize("size", [2, 30, 120])
def test_figures_of_any_number_of_classes(size: int) -> None:
    counts = np.random.default_rng(0).integers(0, 3, (size, size)) + 9 * np.eye(size, dtype=int)
    names = [f"class {index}" for index in range(size)]
    assert figures.confusion_matrix(counts, names, "Target").startswith(PNG)
    accuracy = figures.class_accuracy(counts)
    assert figures.per_class({"source": accuracy, "target": accuracy}, names).startswith(PNG)


def test_confused_pairs_are_the_largest_mistakes() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (20, 20))
    wrong = sorted((counts[i, j] for i in range(20) for j in range(20) if i != j), reverse=True)
    found = figures.confused_pairs(counts, limit=10)
    assert [count for _, _, count, _ in found] == wrong[:10]
    for true, pred, count, share in found:
        assert counts[true, pred] == count
        assert share == pytest.approx(count / counts[true].sum())


def test_a_class_without_items_has_no_accuracy() -> None:
    counts = np.array([[2, 2], [0, 0]])
    np.testing.assert_array_equal(figures.class_accuracy(counts), [0.5, np.nan])
    assert figures.confused_pairs(counts) == [(0, 1, 2, 0.5)]


@pytest.mark.parametrize(("epochs", "chosen"), [(1, 0), (1, None), (5, None), (5, 3)])
def test_curves_of_few_and_many_epochs(epochs: int, chosen: int | None) -> None:
    epoch = np.repeat(np.arange(epochs), 4).astype(float)
    value = np.where(np.arange(len(epoch)) == 1, np.nan, 0.5)
    series = Series(epoch, np.arange(len(epoch)), value)
    lost = Series(epoch, np.arange(len(epoch)), np.full(len(epoch), np.nan))
    curves = {"train/loss": series, "lr/head": series, "health/spread": lost}
    drawn = learning_curves(curves, {"epoch": chosen})
    assert set(drawn) == {"losses", "rates"}
    assert all(png.startswith(PNG) for png in drawn.values())


def test_a_model_adapted_without_its_source_is_held_against_itself_before(make_run: Any) -> None:
    """Such a run trains no baseline, so the command with bracket=true would change nothing."""
    config = {"model": {"_target_": "tl_lightning.models.SourceFree"}, "init": "runs/a/last.ckpt"}
    text = write_page(make_run(config=config)).read_text()
    assert "evaluate.py checkpoint=runs/a/last.ckpt" in text
    assert "bracket=true" not in text
