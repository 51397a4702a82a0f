"""Auxiliary tasks in sweep tables and pages."""

from __future__ import annotations

import csv
import io
import re

from scipy import stats as scipy_stats

from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.sweep.page import collect, write_sweep
from tl_lightning.reporting.sweep.summary import summarise
from tl_lightning.reporting.sweep.tables import columns, to_csv, to_markdown
from tl_lightning.utils.files import write_json

ALONE = (0.61, 0.60, 0.64)
JOINT = (0.65, 0.66, 0.67)
COARSE = (0.80, 0.82, 0.81)
TASK = {"coarse": {"weight": 1.0, "groups": "dogs_akc"}}


def run(make_report, seed, accuracy, tasks, extra=None, domain="source", **other):
    """Return the report of a run with test metrics on ``domain`` only."""
    metrics = {f"{domain}/test/acc": accuracy, **(extra or {})}
    config = {
        "seed": seed,
        "optimizer": {"lr": 0.01},
        "aux_tasks": tasks,
        "task_weighting": "fixed",
    }
    return make_report("fine_tuning", seed, group=f"hash-{bool(tasks)}", config=config,
                       **other) | {"metrics": metrics}  # fmt: skip


def sweep(make_report, domain="source"):
    alone = [run(make_report, k, v, {}, domain=domain) for k, v in enumerate(ALONE)]
    figures = [{f"{domain}/test/coarse/acc": v, f"{domain}/test/age/mae": 2 * v} for v in COARSE]
    joint = [run(make_report, k, v, TASK, figures[k], domain=domain) for k, v in enumerate(JOINT)]
    return [*alone, *joint]


def test_main_task_is_compared_with_and_without_auxiliary_tasks(make_report) -> None:
    for domain in ("source", "target"):
        summary = summarise(sweep(make_report, domain))
        assert [row.label for row in summary.rows] == [
            "fine_tuning aux_task=[coarse]", "fine_tuning aux_task=none"
        ]  # fmt: skip
        comparison = summary.rows[0].comparisons["the main task alone"]
        expected = scipy_stats.ttest_rel(JOINT, ALONE).confidence_interval(0.95)
        assert comparison.seeds == (0, 1, 2)
        assert abs(comparison.interval.low - expected.low) < 1e-9
        assert any(
            re.match(r"fine_tuning aux_task=\[coarse\] .* the main task alone", verdict)
            for verdict in summary.verdicts
        )


def test_tables_have_auxiliary_columns_only_with_auxiliary_tasks(make_report) -> None:
    summary = summarise(sweep(make_report))
    names = [name for name, _ in columns(summary.rows)]
    assert names[-3:] == ["source age/mae", "source coarse/acc", "vs the main task alone"]
    text = to_markdown(summary)
    assert "| 1.62 ± 0.02 | 81.0 ± 1.0 | " in text  # the MAE in its own unit; fractions in %
    rows = list(csv.DictReader(io.StringIO(to_csv(summary))))
    assert float(rows[0]["source coarse/acc_mean"]) == sum(COARSE) / 3
    assert rows[1]["source coarse/acc_mean"] == ""
    assert rows[0]["vs_alone_n"] == "3"
    plain = summarise(sweep(make_report)[:3])
    assert [name for name, _ in columns(plain.rows)][-1] == "Minutes"
    assert "task" not in to_markdown(plain)


def test_rows_are_labelled_with_differing_task_weights(make_report) -> None:
    runs = [
        run(make_report, 0, 0.5, {"coarse": {"weight": w, "groups": "x"}}) | {"group": str(w)}
        for w in (0.5, 1.0)
    ]
    labels = {row.label for row in summarise(runs).rows}
    assert labels == {f"fine_tuning aux_tasks.coarse.weight={w}" for w in (0.5, 1.0)}


def test_pages_show_auxiliary_tasks(make_report, tmp_path) -> None:
    for number, report in enumerate(sweep(make_report)):
        write_json(tmp_path / str(number) / "report.json", report)
    text = write_sweep(tmp_path).read_text()
    assert "source coarse/acc" in text
    assert "vs the main task alone" in text
    assert len(collect(tmp_path)) == 6
    page = write_page(tmp_path / "3").read_text()
    assert "coarse/acc" in page
    assert "80.0 %" in page
