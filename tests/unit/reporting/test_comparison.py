"""Comparison of runs: the same figures in all formats, and warnings where they do not compare."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import browser
from tl_lightning.cli.report import report
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.comparison.formats import METHOD, cells, columns, rendered, verdict
from tl_lightning.reporting.comparison.page import compare_runs, page
from tl_lightning.reporting.comparison.table import compared, gathered
from tl_lightning.reporting.statistics import mcnemar, newcombe

#: Target accuracy of three seeds: better, about the same, and worse than source-only.
ACCURACIES = {"source_only": (0.60, 0.62, 0.61), "dann": (0.70, 0.73, 0.70),
              "mcc": (0.61, 0.60, 0.63), "cdan": (0.50, 0.51, 0.49)}  # fmt: skip


def predictions(folder: Path, right: np.ndarray) -> None:
    """Write predictions of labels 0 and 1 that are right where ``right`` says so."""
    true = np.arange(len(right)) % 2
    arrays = {"target_true": true, "target_pred": np.where(right, true, 1 - true)}
    np.savez(folder / "predictions.npz", **arrays)


@pytest.fixture
def sweep(make_run, tmp_path: Path) -> Path:
    for name, values in ACCURACIES.items():
        for seed, value in enumerate(values):
            folder = make_run(f"sweep/{name}{seed}", name=name, seed=seed, target=value, full=True)
            (folder / "predictions.npz").unlink()
            (folder / "report.html").write_text("page")
    return tmp_path / "sweep"


def table(paths: list[str], start: Path, baseline: str | None = None) -> Any:
    return compared(gathered(paths, start), start, baseline)


def test_lines_are_paired_with_source_only_by_default(sweep: Path, tmp_path: Path) -> None:
    found = table([str(sweep)], tmp_path)
    verdicts = {line.row.name: verdict(line) for line in found.lines}
    assert verdicts == {"source_only": "", "dann": "helped", "mcc": "no clear difference",
                        "cdan": "hurt"}  # fmt: skip
    assert [line.row.name for line in found.lines if line.is_baseline] == ["source_only"]
    dann = next(line for line in found.lines if line.row.name == "dann")
    gains = np.subtract(ACCURACIES["dann"], ACCURACIES["source_only"])
    assert dann.comparison.interval.mean == pytest.approx(gains.mean())
    assert any("not corrected for multiple comparisons: of 3" in note for note in found.notes)


@pytest.mark.parametrize("wanted", ["dann", "{sweep}/dann1"])
def test_the_baseline_can_be_chosen(wanted: str, sweep: Path, tmp_path: Path) -> None:
    found = table([str(sweep)], tmp_path, wanted.format(sweep=sweep))
    assert {line.row.name: verdict(line) for line in found.lines}["source_only"] == "hurt"
    with pytest.raises(ConfigError, match=r"baseline=dan is not one of the compared runs; did you"):
        table([str(sweep)], tmp_path, "dan")


def test_one_seed_is_compared_on_the_same_samples(make_run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400) < 0.6
    own = base | (rng.random(400) < 0.2)
    for name, right in (("source_only", base), ("dann", own)):
        folder = make_run(name, name=name, target=float(right.mean()), classes=("a", "b"))
        predictions(folder, right)
    found = table([str(tmp_path / "source_only"), str(tmp_path / "dann")], tmp_path)
    line = found.lines[1]
    only, other = int((own & ~base).sum()), int((~own & base).sum())
    assert line.samples.p == mcnemar(only, other)
    assert line.samples.difference == newcombe(
        int((own & base).sum()), only, other, int((~own & ~base).sum())
    )
    assert verdict(line) == "helped"
    assert "p < 0.001" in rendered(found, "md")
    predictions(tmp_path / "dann", own[:-1])  # of other samples than the report is about
    assert table([str(tmp_path / "*")], tmp_path).lines[1].samples is None


def test_all_formats_have_the_same_figures(sweep: Path, tmp_path: Path) -> None:
    found = table([str(sweep)], tmp_path)
    texts = {kind: rendered(found, kind) for kind in ("md", "csv", "json", "latex")}
    texts["html"] = page(found, tmp_path)
    plain = texts["html"].replace("\N{MINUS SIGN}", "-").replace("<wbr>", "")
    latex = texts["latex"].replace(r"$\pm$", "±").replace("$-$", "-").replace("\\_", "_")
    for line in found.lines:
        for (name, _), text in zip(columns(found), cells(found, line), strict=True):
            shown = re.escape(text).replace("<", "&lt;")
            if not text:
                continue
            if name not in ("Data", "Selected by", "Seeds"):  # the same in all lines, and links
                assert re.search(rf">\s*{shown}\s*<|<b>{shown}</b>", plain), name
            assert f"| {text} |" in texts["md"], name
            assert text in latex or text == "–", name
    records = list(csv.DictReader(io.StringIO(texts["csv"])))
    objects = json.loads(texts["json"])["rows"]
    for line, record, plain_values in zip(found.lines, records, objects, strict=True):
        mean = line.metrics["target/test/acc"].mean
        assert float(record["target/test/acc_mean"]) == plain_values["target/test/acc_mean"] == mean
        if line.comparison is not None:
            for key in ("mean", "low", "high"):
                named = "difference" if key == "mean" else key
                value = getattr(line.comparison.interval, key)
                assert float(record[named]) == plain_values[named] == value
        assert record["verdict"] == plain_values["verdict"] == verdict(line)
    assert METHOD.format(domain="target")[:60] in texts["md"]
    assert r"\begin{tabular}" in texts["latex"]


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"dataset": {"classes": ["a"], "counts": {}, "fingerprint": "f2"}},
             "another version of the data than source_only"),
    "split": ({"config": {"data": {"test_fraction": 0.5}}}, r"other samples .*data.test_fraction"),
    "counts": ({"dataset": {"classes": ["a"], "counts": {"target/test": 7}, "fingerprint": "f"}},
               "tested on other samples than source_only"),
    "classes": ({"dataset": {"classes": ["b"], "counts": {}, "fingerprint": "f"}}, "other classes"),
    "rule": ({"rule": "bnm"}, "selected by bnm, source_only by source_val"),
    "labels": ({"rule": "oracle"}, "only it uses target labels"),
    "seed": ({"seed": 5}, "has no seed in common with source_only: 5 here, 0 there"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
def test_figures_that_do_not_compare_have_a_warning(kind: str, make_run, tmp_path: Path) -> None:
    same = {"dataset": {"classes": ["a"], "counts": {}, "fingerprint": "f"},
            "config": {"data": {"test_fraction": 0.4}}}  # fmt: skip
    change, words = DIFFERENT[kind]
    make_run("base", name="source_only", **same)
    make_run("same", name="mcc", **same)
    make_run("other", name="dann", **{**same, **change})
    found = table([str(tmp_path / "*")], tmp_path)
    warnings = {line.row.name: line.warnings for line in found.lines}
    assert warnings["mcc"] == ()
    assert any(re.search(words, text) for text in warnings["dann"]), warnings
    for text in (rendered(found, "md"), page(found, tmp_path)):
        assert re.search(words, text)
    if kind == "labels":
        assert {line.row.name: verdict(line) for line in found.lines}["dann"] == "upper bound"


def test_lower_errors_are_better_and_in_the_unit_of_the_labels(make_run, tmp_path: Path) -> None:
    values = {
        "source_only": (16.6, 16.8, 16.9),
        "dann": (12.1, 12.4, 12.3),
        "mmd": (20, 20.2, 20.1),
    }
    for name, errors in values.items():
        for seed, error in enumerate(errors):
            metrics = {"target/test/r2": 0.5, "target/test/mae": error, "source/test/mae": 1.0}
            run = make_run(f"{name}{seed}", name=name, seed=seed, task="regression",
                           metrics=metrics)  # fmt: skip
            (run / "metrics.csv").write_text("epoch,step,source/val/mae\n0,1,9.5\n1,2,7.25\n")
    found = table([str(tmp_path / "*")], tmp_path)
    assert {line.row.name: verdict(line) for line in found.lines} == {
        "source_only": "", "dann": "helped", "mmd": "hurt",
    }  # fmt: skip
    assert [name for name, _ in columns(found)][2:4] == ["Target mean absolute error", "Difference"]
    shown = {line.row.name: cells(found, line) for line in found.lines}
    assert shown["dann"][2] == "12.27 ± 0.15"
    assert shown["dann"][3] == "-4.5 (-4.75 to -4.25)"
    text = rendered(found, "md")
    assert "Mean absolute error in the unit of the labels (lower is better)" in text
    assert "points" not in text
    html = page(found, tmp_path)
    dann, mmd = (html.index(f"<b>{name}</b>") for name in ("dann", "mmd"))
    assert 0 < html.find("#00664a", dann) - dann < 2000
    assert 0 < html.find("#b42318", mmd) - mmd < 2000
    assert "source/val/mae by epoch, from 9.5 to 7.25 in 2 epochs" in html
    assert "Target mean absolute error by seed" in html
    assert "accuracy" not in html.partition("</table>")[0].partition("<table")[2]


def test_a_hostile_name_means_nothing(make_run, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>=1|{\\x}$%"
    make_run("base", name="source_only")
    make_run("x", name=name)
    found = table([str(tmp_path / "*")], tmp_path)
    assert "<script>alert" not in page(found, tmp_path)
    assert "=1\\|" in rendered(found, "md")
    assert r"\{\textbackslash{}x\}\$\%" in rendered(found, "latex")


# -- the command ---------------------------------------------------------------------------------
def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["tl-report", *arguments])
    report()


def test_the_command_writes_or_prints(sweep: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    run_command(monkeypatch, "runs=[sweep/dann*,sweep/source_only*]")
    assert "written: comparison.html" in capsys.readouterr().out
    text = (tmp_path / "comparison.html").read_text()
    assert 'href="sweep/dann0/report.html"' in text
    assert not re.search(r"https?://", text)
    run_command(monkeypatch, "sweep=sweep", "format=csv")
    assert capsys.readouterr().out.startswith("model,name,data,seeds")
    run_command(monkeypatch, "runs=sweep", "out=sweep/t.tex")
    assert (sweep / "t.tex").read_text().startswith("% Metrics in %")
    assert str(tmp_path) not in text


@pytest.mark.parametrize(("arguments", "words"), [
    (["runs=nowhere"], "no runs found in nowhere"),
    (["runs=no*where"], "runs=no*where matches no folder"),
    (["runs=sweep", "format=pdf"], "format=pdf is not a format; valid: csv, html"),
    (["runs=sweep", "run=x"], "exactly one of runs and sweep is required, got runs and run"),
    (["format=md"], "exactly one of runs and sweep is required, got none"),
    (["runs=sweep", "basline=dann"], "basline is not an option; did you mean 'baseline'?"),
    (["runs=sweep", "out=sweep"], "cannot write out=sweep: it is a folder; set out=<file.html>"),
    (["runs=sweep", "out=none/x.md"], "none is not a folder; set out=<file.md>"),
])  # fmt: skip
def test_a_wrong_option_is_one_error(
    arguments: list[str], words: str, sweep: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run_command(monkeypatch, *arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_a_glob_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"runs=.*\* matches no folder; set runs=\[<run folder>"):
        gathered([str(tmp_path / "none*")], tmp_path)


# -- the page in a browser -----------------------------------------------------------------------
ROWS = "[...document.querySelectorAll('#compared tbody tr')].map(r => r.cells[0].innerText.trim())"


@pytest.mark.slow
def test_the_page_is_sorted_with_mouse_and_keyboard(sweep: Path, tmp_path: Path) -> None:
    file = compare_runs([str(sweep)], out=str(tmp_path / "c.html"))[2]
    assert file is not None
    with browser() as tab:
        tab.size(1280, 900)
        tab.open(file)
        before = tab.run(ROWS)
        assert before[0] == "source_only"
        tab.run("document.querySelectorAll('#compared th button')[1].click()")
        assert tab.run(ROWS) == ["dann", "mcc", "source_only", "cdan"]
        sorts = "[...document.querySelectorAll('#compared th')].map(h => h.ariaSort)"
        assert tab.run(sorts)[1] == "descending"
        tab.run("document.querySelectorAll('#compared th button')[2].focus()")
        tab.press("Enter")
        tab.run("document.activeElement.click()") if tab.run(sorts)[2] == "none" else None
        assert tab.run(ROWS)[0] == "dann"
        tab.run("document.activeElement.click()")
        assert tab.run(ROWS)[0] == "cdan"
        assert tab.run("document.documentElement.scrollWidth") <= 1280
        hidden = "getComputedStyle(document.querySelector('#compared .more')).display"
        assert tab.run(hidden) == "none"
        tab.run("document.querySelector('#all').click()")
        assert tab.run(hidden) != "none"
        tab.size(400, 800)
        assert tab.run("document.documentElement.scrollWidth") <= 400
        assert tab.errors == []
        assert [one for one in tab.requests if not one.startswith("file:")] == []
