"""Sweep summaries, tables and page, and the tl-report command."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats as scipy_stats

from tl_lightning.cli.report import report
from tl_lightning.errors import DataError
from tl_lightning.reporting.statistics import student, wilson
from tl_lightning.reporting.sweep.page import collect, write_sweep
from tl_lightning.reporting.sweep.summary import summarise
from tl_lightning.reporting.sweep.tables import cells, render


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("seed", range(3))
def test_student_matches_scipy(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    method, base = rng.normal(0.6, 0.05, n), rng.normal(0.5, 0.05, n)
    interval = student(list(method - base))
    paired = scipy_stats.ttest_rel(method, base).confidence_interval(0.95)
    single = scipy_stats.ttest_1samp(method - base, 0).confidence_interval(0.95)
    np.testing.assert_allclose([interval.low, interval.high], [paired.low, paired.high])
    np.testing.assert_allclose([interval.low, interval.high], [single.low, single.high])
    np.testing.assert_allclose(interval.std, np.std(method - base, ddof=1))


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (61, 100), (1, 3)])
def test_wilson_matches_scipy(hits: int, n: int) -> None:
    expected = scipy_stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson(hits, n), (expected.low, expected.high), atol=1e-12)


def gains(make_report: Any, values: list[float], **other: Any) -> Any:
    """Summarise runs of source_only at 0.5 and of dann at 0.5 plus each value."""
    base = [make_report("source_only", seed, 0.5) for seed in range(len(values))]
    runs = [make_report("dann", seed, 0.5 + v, **other) for seed, v in enumerate(values)]
    return summarise([*runs, *base])


@pytest.mark.parametrize(
    ("values", "verdict", "pattern"),
    [
        ([0.17, 0.18, 0.175], "helped", r"^dann is 17.5 ± 1.2 points better than source-only "
         r"\(95 % interval, 3 paired seeds\)\.$"),
        ([-0.1, -0.11, -0.12], "hurt", r"^dann is 11.0 ± 2.5 points worse than source-only \(95"),
        ([0.1, -0.1, 0.02], "no clear difference", r"^dann: no clear difference from source-only "
         r"\(\+0.7 ± 25.0 points, 95 % interval, 3 paired seeds\)\.$"),
        ([0.2], "one seed", r"^dann is 20.0 points better than source-only with one seed; the "
         r"spread over seeds is unknown\.$"),
        ([-0.2], "one seed", "^dann is 20.0 points worse than source-only with one seed; the spr"),
        ([0.0], "one seed", "^dann performs the same as source-only with one seed; the spread"),
        ([0.125, 0.125], "no spread", "with each of 2 paired seeds; identical differences give no"),
    ],
)  # fmt: skip
def test_verdicts(make_report: Any, values: list[float], verdict: str, pattern: str) -> None:
    summary = gains(make_report, values)
    comparison = summary.rows[1].comparisons["source_only"]
    assert comparison.verdict == verdict
    assert re.search(pattern, comparison.sentence)


def test_half_width_matches_scipy(make_report: Any) -> None:
    values = [0.03, 0.11, 0.08, 0.02, 0.09]
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    half = 50 * (expected.high - expected.low)
    verdict = gains(make_report, values).verdicts[0]
    assert f"is {100 * np.mean(values):.1f} ± {half:.1f} points" in verdict


def test_runs_are_paired_by_seed_and_missing_seeds_are_noted(make_report: Any) -> None:
    rng = np.random.default_rng(0)
    base, own = rng.random(6), rng.random(6)
    runs = [make_report("source_only", seed, base[seed]) for seed in (0, 1, 2, 5)]
    runs += [make_report("dann", seed, own[seed]) for seed in (5, 4, 2, 1)]
    summary = summarise(runs)
    comparison = summary.rows[1].comparisons["source_only"]
    assert comparison.seeds == (1, 2, 5)
    expected = scipy_stats.ttest_rel(own[[1, 2, 5]], base[[1, 2, 5]]).confidence_interval(0.95)
    interval = comparison.interval
    np.testing.assert_allclose([interval.low, interval.high], [expected.low, expected.high])
    assert "source_only on digits is missing seed 4, which other rows have." in summary.notes
    assert "dann on digits is missing seed 0, which other rows have." in summary.notes


def test_no_pairs_without_a_shared_seed_or_with_different_files(make_report: Any) -> None:
    summary = summarise([make_report("dann", 0), make_report("source_only", 1)])
    assert "no source-only run with the same data and seed" in summary.verdicts[0]
    runs = [
        make_report(name, 0, dataset={"fingerprint": name, "classes": []})
        for name in ("dann", "source_only")
    ]
    assert "no source-only run on the same data files" in summarise(runs).verdicts[0]


def test_seeds_of_different_data_are_not_averaged(make_report: Any) -> None:
    """Two seeds before the data changed, and two after it."""
    data = {"before": (0, 1), "after00000": (1, 2)}
    runs = [
        make_report("dann", seed, accuracy, dataset={"fingerprint": name, "classes": []})
        for (name, seeds), accuracy in zip(data.items(), (1.0, 0.75), strict=True)
        for seed in seeds
    ]
    runs.append(make_report("mmd", 0, dataset={"fingerprint": "before", "classes": []}))
    summary = summarise(runs)
    found = {row.label: (row.seeds, row.target.mean, row.target.std) for row in summary.rows}
    assert found.pop("mmd")
    assert found == {
        "dann [data before]": ((0, 1), 1.0, 0.0), "dann [data after000]": ((1, 2), 0.75, 0.0),
    }  # fmt: skip
    assert "The data of dann on digits changed between its runs" in " ".join(summary.notes)


def test_rows_are_ordered_baselines_methods_upper_bounds(make_report: Any) -> None:
    runs = [
        make_report("dann", rule="oracle", group="other"),
        make_report("mmd"),
        make_report("joint_bn"),
        make_report("cdan"),
        make_report("source_only"),
    ]
    summary = summarise(runs)
    assert [row.name for row in summary.rows] == ["source_only", "joint_bn", "cdan", "mmd", "dann"]
    assert "upper bound" in summary.verdicts[-1]
    assert any("selected with or trained on target labels" in note for note in summary.notes)
    trained = [make_report("oracle", 0, 0.9, learned_from="target"), *runs]
    summary = summarise(trained)
    assert [row.name for row in summary.rows][-2:] == ["dann", "oracle"]
    assert "oracle is 30.0 points better than source-only with one seed" in summary.verdicts[-1]
    assert "; trained on target labels, so this is an upper bound." in summary.verdicts[-1]
    assert set(summary.rows[-1].comparisons) == {"source_only"}
    assert cells(summary.rows[-1])[0] == "oracle *"
    assert set(summary.rows[1].comparisons) == {"source_only"}
    assert set(summary.rows[2].comparisons) == {"source_only", "joint_bn"}


def test_groups_of_the_same_name_are_labelled_with_differing_settings(make_report: Any) -> None:
    runs = [
        make_report(group=str(lam), config={"seed": 0, "method": {"dann": {"max_lambda": lam}}})
        for lam in (0.1, 1.0)
    ]
    labels = [row.label for row in summarise(runs).rows]
    assert labels == ["dann method.dann.max_lambda=0.1", "dann method.dann.max_lambda=1.0"]
    same = [make_report(group=name) for name in ("aaaaaaaaaa", "bbbbbbbbbb")]
    assert [row.label for row in summarise(same).rows] == ["dann [aaaaaaaa]", "dann [bbbbbbbb]"]


def test_baseline_is_the_one_with_the_nearest_config(make_report: Any) -> None:
    def run(name: str, rate: float, target: float) -> Any:
        return make_report(name, 0, target, group=f"{name}{rate}", config={"lr": rate})

    runs = [run("source_only", 0.1, 0.2), run("source_only", 0.01, 0.5), run("dann", 0.01, 0.6)]
    comparison = summarise(runs).rows[-1].comparisons["source_only"]
    assert comparison.baseline == "source_only lr=0.01"
    assert comparison.interval.mean == pytest.approx(0.1)


def test_repeated_seed_is_counted_once_and_noted(make_report: Any) -> None:
    runs = [make_report(seed=0, target=t, folder=f) for t, f in ((0.5, "a"), (0.5, "b"))]
    summary = summarise(runs)
    assert summary.rows[0].target.n == 1
    assert "1 repeated run with the same seed and target accuracy, counted once" in summary.notes[0]
    runs[1]["metrics"]["target/test/acc"] = 0.7
    expected = "with different target accuracies: a with 0.5 is counted, b with 0.7 is not."
    assert expected in summarise(runs).notes[0]


def test_run_without_target_accuracy_has_no_verdict(make_report: Any) -> None:
    summary = summarise([make_report("feature_extraction", target=None)])
    assert summary.rows[0].target is None
    assert summary.verdicts == ()


@pytest.fixture
def sweep(tmp_path: Path, make_run: Any) -> Path:
    for seed in range(3):
        gain = 0.01 * seed
        make_run(f"sweep/{seed}", name="dann", seed=seed, target=0.6 + 2 * gain)
        make_run(f"sweep/{seed}/baselines/so", name="source_only", seed=seed, target=0.4 + gain)
    for name in ("failed", "killed/.hydra", "broken"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
    failure = {"error": "loss is not finite | <b>", "overrides": ["model=cdan"]}
    (tmp_path / "sweep" / "failed" / "failed.json").write_text(json.dumps(failure))
    (tmp_path / "sweep" / "killed" / ".hydra" / "overrides.yaml").write_text("- seed=7\n")
    (tmp_path / "sweep" / "broken" / "report.json").write_text("{")
    make_run("sweep/aborted", name="mmd", status="interrupted")
    return tmp_path / "sweep"


def test_jobs_without_a_result_are_listed_as_failures(sweep: Path) -> None:
    summary = summarise(collect(sweep))
    assert [(row.name, row.seeds) for row in summary.rows] == [
        ("source_only", (0, 1, 2)),
        ("dann", (0, 1, 2)),
    ]
    failures = {failure.folder: failure for failure in summary.failures}
    assert set(failures) == {"failed", "killed", "broken", "aborted"}
    assert failures["failed"].overrides == ("model=cdan",)
    assert failures["killed"].overrides == ("seed=7",)
    assert "started but has no report.json" in failures["killed"].error
    assert "not valid JSON" in failures["broken"].error
    assert "status 'interrupted'" in failures["aborted"].error


def test_page_and_tables_agree_and_need_no_network(sweep: Path) -> None:
    index = write_sweep(sweep)
    page = index.read_text()
    assert not re.search(r"https?://", page)
    assert "&lt;b&gt;" in page
    assert "<b>:" not in page
    verdict = "dann is 21.0 ± 2.5 points better than source-only"
    assert verdict in page
    markdown = (sweep / "table.md").read_text()
    assert verdict in markdown
    rows = list(csv.DictReader(io.StringIO((sweep / "table.csv").read_text())))
    assert float(rows[1]["vs_source_only_mean"]) == pytest.approx(0.21)
    data = json.loads((sweep / "sweep.json").read_text())
    assert data["rows"][1]["comparisons"]["source_only"]["interval"]["n"] == 3
    assert len(data["failures"]) == 4
    write_sweep(sweep)  # its own output is not read as a run
    assert index.read_text() == page


def test_pipe_in_a_name_does_not_break_the_markdown_table(make_report: Any) -> None:
    from tl_lightning.reporting.sweep.tables import to_markdown

    lines = to_markdown(summarise([make_report("a|b")])).splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[:3]}) == 1


@pytest.mark.parametrize("width", [80, 140])
def test_terminal_shows_names_without_markup(sweep: Path, make_run: Any, width: int) -> None:
    make_run("sweep/odd", name="[red]odd")
    console = Console(width=width, record=True, file=io.StringIO())
    render(summarise(collect(sweep)), console)
    text = console.export_text()
    assert "[red]odd" in text
    assert "source_only" in text
    assert "no result: failed: loss is not finite" in text


def run_report(monkeypatch: Any, capsys: Any, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    try:
        report()
        status = 0
    except SystemExit as end:
        status = int(str(end.code))
    return status, *capsys.readouterr()


def test_command_reports_a_sweep(sweep: Path, monkeypatch: Any, capsys: Any) -> None:
    for argument in (f"sweep={sweep}", str(sweep)):
        for name in ("index.html", "table.md", "table.csv"):
            (sweep / name).unlink(missing_ok=True)
        status, out, _ = run_report(monkeypatch, capsys, argument)
        assert status == 0
        assert f"page: {sweep / 'index.html'} (with table.md, table.csv and sweep" in out
        assert "dann is 21.0 ± 2.5 points better than source-only" in out
        for name in ("index.html", "table.md", "table.csv"):
            assert (sweep / name).is_file()


def test_command_reports_a_run_with_its_baselines_as_a_sweep(
    sweep: Path, monkeypatch: Any, capsys: Any
) -> None:
    status, out, _ = run_report(monkeypatch, capsys, f"sweep={sweep / '0'}")
    assert status == 0
    assert "dann is 20.0 points better than source-only with one seed" in out
    assert (sweep / "0" / "table.md").is_file()
    assert not (sweep / "0" / "report.html").is_file()
    assert run_report(monkeypatch, capsys, f"run={sweep / '0'}")[0] == 0
    assert (sweep / "0" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("swep=x",), "swep is not an option; did you mean 'sweep'?"),
        (("sweep=x", "y"), "expected one folder, got sweep=x y; run report.py sweep=<folder>"),
        (("sweep=nowhere",), "folder not found: nowhere; pass the folder of a run"),
    ],
)
def test_command_reports_invalid_arguments(
    arguments: tuple[str, ...], message: str, monkeypatch: Any, capsys: Any
) -> None:
    status, _, errors = run_report(monkeypatch, capsys, *arguments)
    assert status > 0
    assert message in errors


def test_sweep_folder_is_not_a_run(sweep: Path, monkeypatch: Any, capsys: Any) -> None:
    status, _, errors = run_report(monkeypatch, capsys, f"run={sweep}")
    assert status > 0
    assert "report.json not found in" in errors


def test_empty_folder_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no runs found in .*no report\.json below it.*tl-report"):
        collect(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        write_sweep(tmp_path / "nowhere")


def test_summary_notes_that_target_accuracy_was_logged(make_report) -> None:
    plain, tracking = make_report("dann"), make_report("dann", seed=1, tracks_target=True)
    noted = [any("track_target=true" in note for note in summarise(reports).notes)
             for reports in ([plain], [plain, tracking])]  # fmt: skip
    assert noted == [False, True]


def test_labels_ignore_seeds_and_settings_that_do_not_change_the_method(
    make_report,
) -> None:
    """Nested seeds follow the seed of the run; logging and workers do not change the method."""
    runs = []
    for rate, seeds in ((0.01, (0, 1)), (0.1, (1, 2))):
        for seed in seeds:
            settings = {
                "seed": seed, "optimizer": {"lr": rate},
                "data": {"seed": seed, "num_workers": seed},
                "logger": {"csv": {"name": str(seeds)}}, "checkpointing": {"keep_last": seed},
                "callbacks": {"adversary_monitor": {"seed": seed}},
            }  # fmt: skip
            runs.append(make_report(seed=seed, group=str(rate), config=settings))
    labels = {row.label for row in summarise(runs).rows}
    assert labels == {"dann optimizer.lr=0.01", "dann optimizer.lr=0.1"}
