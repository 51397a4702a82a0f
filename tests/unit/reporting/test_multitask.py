"""Further tasks in the table of a sweep."""

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
BESIDE = (0.65, 0.66, 0.67)
COARSE = (0.80, 0.82, 0.81)
TASK = {"coarse": {"weight": 1.0, "groups": "dogs_akc"}}


def run(make_report, seed, accuracy, tasks, extra=None, domain="source", **other):
    """Return the report of a run whose only domain is ``domain``."""
    metrics = {f"{domain}/test/acc": accuracy, **(extra or {})}
    config = {"seed": seed, "optimizer": {"lr": 0.01}, "tasks": tasks, "balance": "fixed"}
    return make_report("fine_tuning", seed, group=f"hash-{bool(tasks)}", config=config,
                       **other) | {"metrics": metrics}  # fmt: skip


def sweep(make_report, domain="source"):
    alone = [run(make_report, k, v, {}, domain=domain) for k, v in enumerate(ALONE)]
    figures = [{f"{domain}/test/coarse/acc": v, f"{domain}/test/age/mae": 2 * v} for v in COARSE]
    beside = [run(make_report, k, v, TASK, figures[k], domain=domain) for k, v in enumerate(BESIDE)]
    return [*alone, *beside]


def test_the_main_task_is_held_against_itself_alone(make_report) -> None:
    for domain in ("source", "target"):
        summary = summarise(sweep(make_report, domain))
        assert [row.label for row in summary.rows] == [
            "fine_tuning task=[coarse]", "fine_tuning task=none"
        ]  # fmt: skip
        found = summary.rows[0].comparisons["the main task alone"]
        wanted = scipy_stats.ttest_rel(BESIDE, ALONE).confidence_interval(0.95)
        assert found.seeds == (0, 1, 2)
        assert abs(found.interval.low - wanted.low) < 1e-9
        assert any(
            re.match(r"fine_tuning task=\[coarse\] .* the main task alone", verdict)
            for verdict in summary.verdicts
        )


def test_columns_of_further_tasks_stand_where_there_are_any(make_report) -> None:
    summary = summarise(sweep(make_report))
    names = [name for name, _ in columns(summary.rows)]
    assert names[-3:] == ["source age/mae", "source coarse/acc", "vs the main task alone"]
    text = to_markdown(summary)
    assert "| 1.62 ± 0.02 | 81.0 ± 1.0 | " in text  # a unit of its own; a share in %
    rows = list(csv.DictReader(io.StringIO(to_csv(summary))))
    assert float(rows[0]["source coarse/acc_mean"]) == sum(COARSE) / 3
    assert rows[1]["source coarse/acc_mean"] == ""
    assert rows[0]["vs_alone_n"] == "3"
    plain = summarise(sweep(make_report)[:3])
    assert [name for name, _ in columns(plain.rows)][-1] == "Minutes"
    assert "task" not in to_markdown(plain)


def test_weights_of_a_task_label_its_rows(make_report) -> None:
    runs = [
        run(make_report, 0, 0.5, {"coarse": {"weight": w, "groups": "x"}}) | {"group": str(w)}
        for w in (0.5, 1.0)
    ]
    labels = {row.label for row in summarise(runs).rows}
    assert labels == {f"fine_tuning tasks.coarse.weight={w}" for w in (0.5, 1.0)}


def test_pages_show_further_tasks(make_report, tmp_path) -> None:
    for number, report in enumerate(sweep(make_report)):
        write_json(tmp_path / str(number) / "report.json", report)
    text = write_sweep(tmp_path).read_text()
    assert "source coarse/acc" in text
    assert "vs the main task alone" in text
    assert len(collect(tmp_path)) == 6
    page = write_page(tmp_path / "3").read_text()
    assert "coarse/acc" in page
    assert "80.0 %" in page
