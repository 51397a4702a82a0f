"""Validator study on constructed runs, with regrets computed by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from helpers import command
from tl_lightning.cli.studies import _validator_study
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.studies.selection_regret import choices, lines, rank_correlation
from tl_lightning.reporting.studies.selection_report import write_regret
from tl_lightning.reporting.studies.selection_runs import SCORES, read_traces
from tl_lightning.selection.collapse import WORST

CONFIG = {"callbacks": {"validators": {"min_source_ratio": 0.9}}}
CLASSES = tuple("abcdefghij")
#: Target accuracy, source accuracy and SND of each epoch; dann collapses in the last one.
RUNS = {
    "source_only": ([0.40, 0.50, 0.45], [0.80, 0.90, 0.95], [1.0, 2.0, 3.0]),
    "dann": ([0.55, 0.70, 0.10], [0.90, 0.90, 0.13], [1.5, 2.5, 9.0]),
}


def write_curves(run: Path, accuracy, source, score, filtered, without: str = "") -> None:
    """Write a ``metrics.csv``; ``without`` names a column to leave out."""
    columns = {"target/val/acc": accuracy, "validator/source_val": source}
    columns |= {f"validator/{name}": score for name in SCORES}
    columns |= {f"validator/floored/{name}": filtered for name in SCORES}
    columns.pop(without, None)
    with (run / "metrics.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ["epoch", "step", "train/loss", *columns])
        writer.writeheader()
        for epoch in range(len(accuracy)):
            writer.writerow({"epoch": epoch, "step": 3 * epoch, "train/loss": 1})
            values = {name: column[epoch] for name, column in columns.items()}
            writer.writerow({"epoch": epoch, "step": 3 * epoch + 2, **values})


@pytest.fixture
def study(tmp_path, make_run) -> Path:
    for number, (name, (accuracy, source, score)) in enumerate(RUNS.items()):
        run = make_run(f"{number}", name=name, classes=CLASSES, config=CONFIG)
        filtered = [WORST + a if a < 0.2 else s for a, s in zip(source, score, strict=True)]
        write_curves(run, accuracy, source, score, filtered)
    return tmp_path


def test_regrets_match_hand_computed_values(study) -> None:
    table = {(line.rule, line.under): line for line in lines(read_traces(study)[0])}
    raw, filtered = table["snd", False], table["snd", True]
    # Raw: source_only epoch 2 (0.50 - 0.45), dann epoch 2 (0.70 - 0.10); pool: dann.
    assert (raw.run, raw.run_worst) == pytest.approx((0.325, 0.60))
    assert (raw.pool, raw.pool_worst) == pytest.approx((0.60, 0.60))
    assert (raw.collapsed, raw.chosen, raw.runs, raw.checkpoints) == (2, 3, 2, 6)
    # Filtered: source_only epoch 2, dann epoch 1; pool: source_only, which has the larger score.
    assert (filtered.run, filtered.run_worst) == pytest.approx((0.025, 0.05))
    assert filtered.pool == pytest.approx(0.25)
    assert filtered.collapsed == 0
    # Last: epoch 2 of both. Source: source_only epoch 2, dann epoch 0; pool: source_only.
    assert table["last", False].run == pytest.approx(0.325)
    assert table["last", False].pool is None
    assert table["source_val", False].run == pytest.approx((0.05 + 0.15) / 2)
    assert table["source_val", False].pool == pytest.approx(0.25)


def test_rank_correlations_match_scipy(study) -> None:
    accuracy, source, score = (
        np.concatenate(column) for column in zip(*RUNS.values(), strict=True)
    )
    table = {(line.rule, line.under): line for line in lines(read_traces(study)[0])}
    assert table["snd", False].spearman == pytest.approx(spearmanr(score, accuracy).statistic)
    # The collapse limit of the pool, 0.9 x 0.95, also excludes the first epoch of source_only.
    score[[0, 5]] = WORST + source[[0, 5]]
    assert table["snd", True].spearman == pytest.approx(spearmanr(score, accuracy).statistic)
    assert table["last", False].spearman is None
    assert rank_correlation(np.ones(3), np.arange(3)) is None


def test_below_half_of_source_only_is_collapsed_even_above_twice_chance(study) -> None:
    run = study / "1"
    write_curves(run, [0.7, 0.7, 0.22], [0.9, 0.9, 0.9], [1, 2, 9], [1, 2, 9])
    made = [c for c in choices(read_traces(study)[0]) if c.rule == "snd" and c.scope == "pool"]
    assert [(c.trace.name, c.place, c.collapsed) for c in made] == [("dann", 2, True)] * 2


def test_choice_is_not_collapsed_without_a_better_candidate(study, make_run) -> None:
    """A run whose checkpoints are all below the limit has no collapsed choice."""
    run = make_run("bad", name="mcc", classes=CLASSES, config=CONFIG)
    write_curves(run, [0.1, 0.1], [0.9, 0.9], [1, 2], [1, 2])
    made = [c for c in choices(read_traces(study)[0]) if c.trace.name == "mcc"]
    assert made
    assert not any(choice.collapsed for choice in made if choice.scope == "run")


def test_runs_trained_on_target_labels_are_excluded(study, make_run) -> None:
    run = make_run("oracle", name="oracle", classes=CLASSES, config=CONFIG, learned_from="target")
    write_curves(run, [0.99, 0.99], [0.9, 0.9], [1, 2], [1, 2])
    traces, notes = read_traces(study)
    assert "oracle" not in {trace.name for trace in traces}
    assert "Excluded runs trained on target labels: 1." in notes


def test_pools_have_one_dataset_and_seed(study, make_run) -> None:
    run = make_run("other", name="dann", seed=1, classes=CLASSES, config=CONFIG)
    write_curves(run, [0.9, 0.8], [0.9, 0.9], [1, 2], [1, 2])
    table = {(line.rule, line.under): line for line in lines(read_traces(study)[0])}
    assert table["snd", False].pool == pytest.approx((0.60 + 0.10) / 2)
    assert table["snd", False].pool_worst == pytest.approx(0.60)


def test_notes_on_excluded_and_repeated_runs(study, make_run) -> None:
    make_run("plain", full=True)
    again = make_run("again", name="dann", classes=CLASSES, config=CONFIG)
    (again / "metrics.csv").write_text((study / "1" / "metrics.csv").read_text())
    traces, notes = read_traces(study)
    assert len(traces) == 2
    assert notes == ["Excluded runs without track_target=true: 1.",
                     "Repeated runs counted once: 1."]  # fmt: skip


def test_write_regret_writes_tables_and_figure(study, make_run) -> None:
    run = make_run("pacs", name="dann", data="pacs", classes=CLASSES, config=CONFIG)
    write_curves(run, [0.9, 0.8], [0.9, 0.9], [1, 2], [1, 2])
    text = write_regret(study).read_text()
    assert "| snd | no | 25.0 | 60.0 | 35.0 | 60.0 |" in text
    assert "## digits" in text
    assert "| snd | yes | 2.5 | 5.0 | 25.0 | 25.0 |" in text
    assert "3 runs (dann, source_only) on digits, pacs, seeds 0." in text
    rows = list(csv.DictReader((study / "regret.csv").read_text().splitlines()))
    chosen = [r for r in rows if (r["rule"], r["filtered"], r["scope"]) == ("snd", "0", "pool")]
    assert [(r["data"], r["name"], r["epoch"], r["regret"], r["collapsed"]) for r in chosen] == [
        ("digits", "dann", "2", "0.6", "1"), ("pacs", "dann", "1", "0.1", "0"),
    ]  # fmt: skip
    assert (study / "regret.png").read_bytes()[:4] == b"\x89PNG"


def test_error_messages(tmp_path, make_run, study) -> None:
    make_run("alone/run", full=True)
    with pytest.raises(DataError, match=r"no run in .*without it: 1\); run .*track_target=true"):
        read_traces(tmp_path / "alone")
    accuracy, source, score = RUNS["dann"]
    write_curves(study / "1", accuracy, source, score, score, without="validator/dev")
    with pytest.raises(DataError, match=r"1/metrics.csv has no validator/dev for some epochs"):
        read_traces(study)
    with pytest.raises(ConfigError, match="expected one sweep folder, got 2 arguments; run"):
        _validator_study(["a", "b"])


def test_command_prints_the_table(study) -> None:
    done = command("validator_study", [str(study)], study)
    assert done.returncode == 0, done.stderr
    assert "| snd | yes | 2.5 |" in done.stdout


def test_pools_have_one_pair_of_domains(tmp_path, make_run) -> None:
    """With the source-only run of another target, good runs would count as collapsed."""
    for number, (target, accuracy) in enumerate({"sketch": 0.2, "art": 0.9}.items()):
        for name in ("source_only", "dann"):
            data = {"source": {"domain": "photo"}, "target": {"domain": target}}
            config = CONFIG | {"data": data}
            run_id = f"{number}{name}"
            run = make_run(run_id, name=name, classes=CLASSES, config=config, group=run_id)
            write_curves(run, [accuracy] * 2, [0.9] * 2, [1.0, 2.0], [1.0, 2.0])
    traces = read_traces(tmp_path)[0]
    assert {trace.data for trace in traces} == {
        "digits (photo to sketch)", "digits (photo to art)",
    }  # fmt: skip
    for line in lines(traces):
        assert (line.run_worst, line.pool_worst or 0.0, line.collapsed) == (0.0, 0.0, 0)
