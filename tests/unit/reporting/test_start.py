"""The models that a run started from, as rows of its report."""

from __future__ import annotations

from tl_lightning.reporting.run.start import candidate_rows
from tl_lightning.reporting.verdict import advice, run_verdict

START = {
    "chosen": "aligned probe",
    "candidates": [
        {"name": "frozen probe", "scores": {"validator/floored/cbnm": -9999.2},
         "metrics": {"source/test/acc": 0.5, "target/test/acc": 0.25}},
        {"name": "aligned probe", "scores": {"validator/floored/cbnm": 0.4}, "metrics": {}},
    ],
}  # fmt: skip
TRAINED = {"target/test/acc": 0.75}


def rows(epoch: int, **start):
    selection = {"monitor": "validator/floored/cbnm", "epoch": epoch, "value": 0.8}
    report = {"start": {**START, **start}, "selection": selection, "metrics": TRAINED}
    return candidate_rows(report)


def test_the_trained_model_is_the_last_row_unless_the_start_is_kept() -> None:
    found = rows(epoch=2)
    assert [row["name"] for row in found] == ["frozen probe", "aligned probe", "trained, epoch 3"]
    assert [row["chosen"] for row in found] == [False, False, True]
    last = found[-1]
    assert (last["target"], last["source"], last["score"]) == ("75.0 %", "–", "0.800")
    found = rows(epoch=-1)
    assert [row["chosen"] for row in found] == [False, True]
    assert [row["chosen"] for row in rows(epoch=2, complete=True)] == [False, True]


def test_a_collapsed_model_has_no_score() -> None:
    assert rows(epoch=2)[0] == {
        "name": "frozen probe", "chosen": False, "score": "collapsed", "source": "50.0 %",
        "target": "25.0 %",
    }  # fmt: skip


def test_a_run_with_a_random_head_has_no_rows() -> None:
    assert candidate_rows({"start": {"chosen": "", "candidates": []}, "selection": {}}) == []
    assert candidate_rows({}) == []


def test_an_interpolated_model_has_the_test_accuracy_if_it_was_chosen() -> None:
    for chosen in (0.25, 0.5, None):
        mixtures = [{"alpha": alpha, "score": alpha, "source_val": 0.9, "chosen": alpha == chosen}
                    for alpha in (0.25, 0.5)]  # fmt: skip
        found = {row["name"]: row for row in rows(epoch=2, interpolated=mixtures, selected=0.7)}
        kept = f"interpolated, alpha {chosen}" if chosen else "trained, epoch 3"
        assert [name for name, row in found.items() if row["chosen"]] == [kept]
        assert {name for name, row in found.items() if row["target"] == "75.0 %"} == {kept}
        assert found["interpolated, alpha 0.5"]["score"] == "0.500"
        assert found["trained, epoch 3"]["score"] == ("0.700" if chosen else "0.800")


def test_the_best_of_several_models_is_compared_with_the_frozen_probe() -> None:
    start = {**START, "complete": True}
    report = {"name": "auto", "data": "d", "start": start, "metrics": TRAINED}
    text = (
        "aligned probe has 75.0 % on the target, the frozen probe 25.0 % (+50.0 points), with one"
    )
    assert str(run_verdict(report, [])).startswith(text)
    assert advice(report, []) is None
    report["start"] = {**START, "complete": True, "chosen": "frozen probe"}
    assert run_verdict(report, []) == "The frozen probe is kept: no other model has a higher score."
    report["start"] = START  # of a run that can have baselines
    assert run_verdict(report, []) is None
    assert "No source-only baseline found" in advice(report, [])["text"]
