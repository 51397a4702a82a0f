"""HTML page, figures and terminal output of a run."""

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
from tl_lightning.reporting.run.context import read_baselines
from tl_lightning.reporting.run.curves import learning_curves
from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.statistics import newcombe
from tl_lightning.utils.files import write_json

PNG = b"\x89PNG\r\n"


class Sources(HTMLParser):
    """Collect every URL that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe")


@pytest.mark.slow
def test_page_is_self_contained(make_run: Any) -> None:
    run = make_run(full=True)
    page = write_page(run)
    text = page.read_text()
    assert page == run / "report.html"
    assert not re.search(r"https?://|url\(|@import", text)
    sources = Sources(text).urls
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    written = {path.stem for path in (run / "figures").glob("*.png")}
    assert written >= {"losses", "accuracy", "rates", "confusion_target", "confusion_source",
                       "per_class", "features_before", "features_after_classes",
                       "examples_target"}  # fmt: skip
    assert all(path.read_bytes().startswith(PNG) for path in (run / "figures").iterdir())


@pytest.mark.slow
def test_names_are_escaped(make_run: Any) -> None:
    text = write_page(make_run(full=True, classes=("<b>", "$x_{", "a&b"), name="<i>")).read_text()
    assert "<i>" not in re.sub(r'<i class="\w+" style="[^"]*">', "", text)
    assert "&lt;b&gt;" in text
    assert "<b>✓" not in text
    assert not re.search(r"[✓✗] <b>", text)


def test_page_advises_to_run_a_missing_baseline(make_run: Any) -> None:
    text = write_page(make_run()).read_text()
    assert "No source-only baseline found in this folder to compare the accuracy with. Run" in text
    assert "baselines=true" in text
    assert "60.0" in text


def test_page_compares_the_run_with_its_baselines(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    make_run("run/baselines/a", name="joint_bn", target=0.65)
    make_run("run/baselines/b", name="source_only", target=0.425)
    (run / "baselines" / "c").mkdir()
    (run / "baselines" / "c" / "failed.json").write_text('{"error": "out of memory"}')
    text = write_page(run).read_text()
    assert "to compare the accuracy with" not in text
    assert text.index("source-only") < text.index("joint batch norm")
    assert "+17.5 points" in text
    assert "−5.0 points" in text
    assert "out of memory" in text


def test_page_has_a_single_verdict(make_run: Any) -> None:
    run = make_run()
    assert "the spread over seeds is unknown" not in write_page(run).read_text()
    make_run("run/baselines/a", name="joint_bn", target=0.65)
    assert "dann is 5.0 points worse than joint batch norm with" in write_page(run).read_text()
    make_run("run/baselines/b", name="source_only", target=0.425)
    text = write_page(run).read_text()
    assert text.count("dann is 17.5 points better than source-only with one seed; the spread") == 1
    assert "batch norm with one seed" not in text


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((10, 1, 0, 9), "dann: no clear difference from source-only \\(\\+5.0 points on 20 test "
         "samples, 95 % interval -7.8 to \\+17.3\\)"),
        ((30, 4, 0, 22), "no clear difference from source-only \\(\\+7.1 points on 56 test"),
        ((100, 30, 5, 65), "dann is 12.5 points better than source-only \\(200 test samples, 95 % "
         "interval \\+"),
        ((100, 5, 30, 65), "dann is 12.5 points worse than source-only \\(200 test samples"),
        ((10, 0, 0, 10), "no clear difference from source-only \\(\\+0.0 points on 20"),
    ],
)  # fmt: skip
def test_verdict_of_a_run_rests_on_the_interval_of_its_test_set(
    make_run: Any, counts: tuple[int, int, int, int], verdict: str
) -> None:
    both, first, second, _ = counts
    true = np.zeros(sum(counts), int)
    own, base = np.ones_like(true), np.ones_like(true)
    own[: both + first] = 0
    base[:both] = base[both + first : both + first + second] = 0
    accuracies = [float((pred == true).mean()) for pred in (own, base)]
    run = make_run(target=accuracies[0])
    lower = make_run("run/baselines/source_only", name="source_only", target=accuracies[1])
    for folder, pred in ((run, own), (lower, base)):
        np.savez(folder / "predictions.npz", target_true=true, target_pred=pred)
    text = write_page(run).read_text()
    assert re.search(verdict, text)
    bold = re.search(r'class="n (up|down)?">[+−][0-9.]+ points', text)
    assert bold is not None
    assert (bold[1] is None) == ("no clear" in verdict)
    # Without the same samples there is no interval.
    np.savez(lower / "predictions.npz", target_true=true + 1, target_pred=base)
    assert "points on" not in write_page(run).read_text()


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((20, 12, 2, 16), 0.0562, 0.3292)],
)
def test_newcombe_agrees_with_the_paper(counts: Any, low: float, high: float) -> None:
    found = newcombe(*counts)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_interval_contains_the_true_difference_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    for size, shares in ((20, (0.6, 0.1, 0.1, 0.2)), (200, (0.8, 0.06, 0.02, 0.12))):
        found = [newcombe(*map(int, rng.multinomial(size, shares))) for _ in range(1000)]
        truth = shares[1] - shares[2]
        covered = np.mean([(one.low or 0) <= truth <= (one.high or 0) for one in found])
        assert 0.93 < covered < 0.995


@pytest.mark.slow
def test_page_shows_the_change_of_each_class_from_source_only(make_run: Any) -> None:
    run = make_run(full=True)
    assert "Effect of adaptation" not in write_page(run).read_text()
    base = make_run("run/baselines/source_only", full=True, name="source_only", target=0.4)
    with np.load(run / "predictions.npz") as archive:
        arrays = dict(archive)
    arrays["target_pred"] = arrays["target_true"].copy()
    np.savez(run / "predictions.npz", **arrays)
    pred = arrays["target_true"].copy()
    pred[:3] = (1, 0, 2)  # one ant and one bee wrong; the cat right
    np.savez(base / "predictions.npz", **arrays | {"target_pred": pred})
    text = write_page(run).read_text()
    expected = (
        "2 of 3 classes improved on source-only, 0 got worse. Best: ant (+33.3), bee (+33.3)."
    )
    assert expected in text
    assert (run / "figures" / "class_change.png").read_bytes().startswith(PNG)
    other = arrays["target_true"][::-1].copy()  # not the same images
    np.savez(base / "predictions.npz", **arrays | {"target_true": other})
    assert "Effect of adaptation" not in write_page(run).read_text()


@pytest.mark.parametrize("size", [2, 24, 60])
def test_class_change_figure_with_any_number_of_classes(size: int) -> None:
    change = np.random.default_rng(0).uniform(-1, 1, size)
    change[0] = np.nan
    assert class_change_figure(change, [f"class {k}" for k in range(size)]).startswith(PNG)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (1.95, 2.0, "saturates at 2, so it does not show whether they moved closer"),
        (1.95, 1.2, "less well after training: they moved closer"),
        (1.0, 1.5, "they moved apart"),
        (1.0, 1.05, "hardly changed"),
    ],
)
def test_a_distance_is_interpreted(
    make_run: Any, before: float, after: float, message: str
) -> None:
    run = make_run()
    report = json.loads((run / "report.json").read_text())
    report["metrics"] |= {"health/a_distance_before": before, "health/a_distance_after": after}
    (run / "report.json").write_text(json.dumps(report))
    text = write_page(run).read_text()
    assert f"{before:.2f} before training, {after:.2f} after (0: indistinguishable, 2: " in text
    assert message in text


def test_loss_fractions_sum_to_one_and_need_two_terms() -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["tsne", "umap"])
def test_page_names_the_projection(make_run: Any, projection: str) -> None:
    text = write_page(make_run(full=True, projection=projection)).read_text()
    assert "Principal components" not in text
    assert {"tsne": "A t-SNE map", "umap": "A UMAP map"}[projection] in text


def test_upper_bound_is_last_and_marked(make_run: Any) -> None:
    run = make_run()
    make_run("run/baselines/a", name="oracle", target=0.9, learned_from="target")
    make_run("run/baselines/b", name="source_only", target=0.425)
    text = write_page(run).read_text()
    assert text.index("(this run)") < text.index("oracle *")
    assert "trained on target labels" in text
    assert "−30.0 points" in text
    assert "Uses target labels." not in text  # this run did not use any
    alone = write_page(run / "baselines" / "a").read_text()
    assert "Uses target labels." in alone
    assert "was trained on labelled target images." in alone


def test_last_line_of_a_run_is_its_verdict(make_run: Any, capsys: Any) -> None:
    run = make_run()
    report_folder(run)
    last = capsys.readouterr().out.splitlines()[-1]
    # Not a complete command, which would lack the data path and the other overrides.
    assert last.endswith("; run the same command with baselines=true")
    make_run("run/baselines/b", name="source_only", target=0.425)
    report_folder(run)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("dann is 17.5 points better than source-only with one seed; the")
    report_folder(run / "baselines" / "b")
    assert capsys.readouterr().out.splitlines()[-1].startswith("page: ")


def test_filtered_score_is_not_shown_as_a_number(make_run: Any) -> None:
    run = make_run(rule="bnm")
    report = json.loads((run / "report.json").read_text())
    report["selection"] |= {"monitor": "validator/floored/bnm", "value": -9999.3}
    write_json(run / "report.json", report)
    text = write_page(run).read_text()
    assert "none: every epoch counted as collapsed" in text
    assert "-9999" not in text
    assert "-1e+04" not in text


@pytest.mark.parametrize(("rule", "marked"), [("oracle", True), ("source_val", False)])
def test_selection_with_target_labels_is_marked(make_run: Any, rule: str, marked: bool) -> None:
    text = write_page(make_run(rule=rule)).read_text()
    assert ("Uses target labels." in text) is marked
    assert ("upper bound" in text) is marked


def test_page_shows_notes_warnings_and_config(make_run: Any) -> None:
    run = make_run(warnings=["2 images could not be read"], config={"a": {"b": None, "c": [1]}})
    text = write_page(run).read_text()
    assert "synthetic shift (blur)" in text
    assert "2 images could not be read" in text
    assert "a.b=null" in text
    assert "a.c=[1]" in text


def test_minimal_report_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"schema": 1, "kind": "run", "name": "x", "data": "y"}')
    text = write_page(tmp_path).read_text()
    assert "This run has no test accuracy" in text
    assert "No metrics.csv" in text
    assert "No predictions.npz" in text


def test_missing_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.json not found"):
        write_page(tmp_path)


def test_page_without_a_target(make_run: Any) -> None:
    run = make_run(full=True, target=None)
    with np.load(run / "predictions.npz") as archive:
        kept = {key: archive[key] for key in archive.files if "target" not in key}
    kept["features_domain"] = np.zeros(20, dtype=int)
    np.savez(run / "predictions.npz", **kept)
    text = write_page(run).read_text()
    assert "to compare the accuracy with" not in text
    assert "Confusion matrix of the source" in text
    assert "Confusion matrix of the target" not in text


@pytest.mark.slow
def test_headline_interval_needs_predictions_that_match_the_accuracy(make_run: Any) -> None:
    run = make_run(full=True)
    with np.load(run / "predictions.npz") as archive:
        exact = float(np.mean(archive["target_true"] == archive["target_pred"]))
    assert "from 9 test samples" not in write_page(run).read_text()
    matching = make_run("other", full=True, target=exact)
    assert "from 9 test samples" in write_page(matching).read_text()


@pytest.mark.parametrize("size", [2, 30, 120])
def test_figures_with_any_number_of_classes(size: int) -> None:
    counts = np.random.default_rng(0).integers(0, 3, (size, size)) + 9 * np.eye(size, dtype=int)
    names = [f"class {index}" for index in range(size)]
    assert figures.confusion_matrix(counts, names, "Target").startswith(PNG)
    accuracy = figures.class_accuracy(counts)
    assert figures.per_class({"source": accuracy, "target": accuracy}, names).startswith(PNG)


def test_confused_pairs_are_the_most_frequent_errors() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (20, 20))
    wrong = sorted((counts[i, j] for i in range(20) for j in range(20) if i != j), reverse=True)
    found = figures.confused_pairs(counts, limit=10)
    assert [count for _, _, count, _ in found] == wrong[:10]
    for true, pred, count, fraction in found:
        assert counts[true, pred] == count
        assert fraction == pytest.approx(count / counts[true].sum())


def test_class_without_samples_has_no_accuracy() -> None:
    counts = np.array([[2, 2], [0, 0]])
    np.testing.assert_array_equal(figures.class_accuracy(counts), [0.5, np.nan])
    assert figures.confused_pairs(counts) == [(0, 1, 2, 0.5)]


@pytest.mark.parametrize(("epochs", "selected"), [(1, 0), (1, None), (5, None), (5, 3)])
def test_curves_with_few_and_many_epochs(epochs: int, selected: int | None) -> None:
    epoch = np.repeat(np.arange(epochs), 4).astype(float)
    value = np.where(np.arange(len(epoch)) == 1, np.nan, 0.5)
    series = Series(epoch, np.arange(len(epoch)), value)
    missing = Series(epoch, np.arange(len(epoch)), np.full(len(epoch), np.nan))
    curves = {"train/loss": series, "lr/head": series, "health/spread": missing}
    drawn = learning_curves(curves, {"epoch": selected})
    assert set(drawn) == {"losses", "rates"}
    assert all(png.startswith(PNG) for png in drawn.values())


def test_source_free_run_is_advised_to_evaluate_its_initial_model(make_run: Any) -> None:
    """Source-free runs train no baselines, so ``baselines=true`` has no effect on them."""
    run = make_run(source_free=True, config={"init": "runs/a/last.ckpt"})
    text = write_page(run).read_text()
    assert "evaluate.py checkpoint=runs/a/last.ckpt" in text
    assert "baselines=true" not in text


def test_a_baseline_on_other_data_is_not_compared(make_run: Any) -> None:
    data = {"classes": ["ant", "bee", "cat"]}
    folder = make_run(dataset={**data, "fingerprint": "a"})
    for name, fingerprint in (("source_only", "b"), ("joint_bn", "a")):
        make_run(f"run/baselines/{name}", name=name, dataset={**data, "fingerprint": fingerprint})
    found, failures = read_baselines(folder)
    assert [run["name"] for run in found] == ["joint_bn"]
    assert failures[0][0] == "source_only"
    assert "was trained on other data than this run" in failures[0][1]
