"""Table of leave-one-domain-out sweeps."""

from __future__ import annotations

import csv
import json

import pytest

from tl_lightning.reporting.sweep.held_out import held_out, held_out_cells
from tl_lightning.reporting.sweep.page import write_sweep
from tl_lightning.utils.files import read_json

ACCURACIES = {
    "erm": {"photo": [0.9, 0.8], "sketch": [0.5, 0.7]},
    "swad": {"photo": [0.8, 0.8], "sketch": [0.6, 0.6]},
}


def reports():
    return [
        {
            "schema": 1, "kind": "run", "status": "finished", "name": name, "data": "pacs",
            "seed": seed, "group": f"{name}{domain}", "unseen": ["target"],
            "selection": {"rule": "mean_domain", "value": 0.9},
            "metrics": {"target/test/acc": accuracy, "source/test/acc": 0.9},
            "start": {"candidates": [
                {"name": "frozen probe", "metrics": {"target/test/acc": 0.4}, "scores": {}}
            ]},
            "config": {"seed": seed, "data": {"target": {"domain": domain}, "seed": seed}},
        }
        for name, found in ACCURACIES.items()
        for domain, values in found.items()
        for seed, accuracy in enumerate(values)
    ]  # fmt: skip


def test_rows_columns_mean_and_worst() -> None:
    (table,) = held_out(reports())
    heads, rows = held_out_cells(table)
    assert heads == ["Method", "photo", "sketch", "Mean", "Worst", "Seeds", "Selected by"]
    assert rows[0][:5] == ["frozen probe", "40.0 ± 0.0", "40.0 ± 0.0", "40.0 ± 0.0", "40.0 ± 0.0"]
    # Seed 0: mean 70, worst 50; seed 1: mean 75, worst 70.
    assert rows[1] == [
        "erm", "85.0 ± 7.1", "60.0 ± 14.1", "72.5 ± 3.5", "60.0 ± 14.1", "0, 1", "mean_domain",
    ]  # fmt: skip
    assert rows[2][1:5] == ["80.0 ± 0.0", "60.0 ± 0.0", "70.0 ± 0.0", "60.0 ± 0.0"]


def test_an_unfinished_sweep_has_no_mean_of_some_domains_only() -> None:
    partial = [r for r in reports() if r["name"] == "swad" or r["seed"] == 0]
    partial = [r for r in partial if not (r["name"] == "erm" and r["group"] == "ermsketch")]
    (table,) = held_out(partial)
    row = next(row for row in held_out_cells(table)[1] if row[0] == "erm")
    assert row[1:5] == ["90.0", "–", "–", "–"]


def test_settings_tell_rows_of_one_name_apart() -> None:
    found = reports()
    for report in found:
        if report["name"] == "swad":
            report |= {"name": "erm", "config": {**report["config"], "head_init": "random"}}
        else:
            report["config"]["head_init"] = "probe"
    (table,) = held_out(found)
    labels = [row.label for row in table.rows]
    assert labels == ["frozen probe", "erm head_init=probe", "erm head_init=random"]


def test_runs_that_saw_the_target_have_no_table() -> None:
    assert held_out([{**report, "unseen": []} for report in reports()]) == []
    one = [report for report in reports() if report["group"].endswith("photo")]
    assert held_out(one) == []


def test_files_of_a_sweep(tmp_path) -> None:
    for number, report in enumerate(reports()):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "report.json").write_text(json.dumps(report))
    page = write_sweep(tmp_path).read_text()
    assert "Leave one domain out: pacs" in page
    assert "| erm | 85.0 ± 7.1 | 60.0 ± 14.1 |" in (tmp_path / "table.md").read_text()
    rows = list(csv.DictReader((tmp_path / "leave_one_out.csv").read_text().splitlines()))
    erm = [row for row in rows if row["method"] == "erm"]
    assert [float(row["accuracy"]) for row in erm] == [0.9, 0.8, 0.5, 0.7]
    (table,) = read_json(tmp_path / "sweep.json")["held_out"]
    assert table["domains"] == ["photo", "sketch"]
    assert table["rows"][1]["accuracy"]["sketch"]["1"] == pytest.approx(0.7)
