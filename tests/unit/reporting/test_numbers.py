"""Predicted numbers on the page of a run."""

from __future__ import annotations

import numpy as np
import pytest

from tl_lightning.reporting.number_metrics import number_metrics
from tl_lightning.reporting.run.numbers import _points, describe_numbers, number_figures
from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.verdict import advice, run_verdict

NAMES = ["age <years>", "dose"]


def numbers(samples: int = 40, names: list[str] = NAMES, domains=("source", "target")):
    rng = np.random.default_rng(0)
    found = {"names": names}
    for domain in domains:
        true = rng.normal(50, 20, (samples, len(names)))
        predicted = 0.8 * true + 10 + rng.normal(0, 5, true.shape)
        points = {"true": true.T.tolist(), "predicted": predicted.T.tolist()}
        metrics = number_metrics(true, predicted, names)
        found[domain] = {"metrics": metrics, "points": points}
    return found


def test_page_has_metrics_with_intervals_and_two_figures_per_output(make_run) -> None:
    run = make_run(numbers=numbers())
    page = write_page(run).read_text()
    mae, low, high = numbers()["target"]["metrics"]["dose"]["mae"]
    assert f"{mae:#.3g} ({low:#.3g} to {high:#.3g})" in page
    assert "age &lt;years&gt;" in page
    for kind in ("predicted", "residual"):
        for domain in ("source", "target"):
            for number in (0, 1):
                file = run / "figures" / f"{kind}_{domain}_{number}.png"
                assert file.read_bytes().startswith(b"\x89PNG")
    assert page.count("Errors of dose, target") == 1


def test_one_output_has_no_column_of_names(make_run) -> None:
    page = write_page(make_run(numbers=numbers(names=["age"]))).read_text()
    assert "<th>Output</th>" not in page
    assert "Predictions against labels of age, target" in page


def test_target_comes_first_and_a_missing_domain_is_left_out() -> None:
    found = describe_numbers({"numbers": numbers()})
    assert found["domains"] == ["target", "source"]
    assert [row["name"] for row in found["rows"][:5]] == ["age <years>", "", "", "", "dose"]
    alone = describe_numbers({"numbers": numbers(domains=["source"])})
    assert alone["domains"] == ["source"]
    assert not [name for name, _ in alone["figures"] if "target" in name]


def test_many_outputs_are_not_all_drawn(make_run) -> None:
    found = {"numbers": numbers(names=[f"n{number}" for number in range(9)])}
    assert len(describe_numbers(found)["figures"]) == 6 * 2 * 2
    assert describe_numbers(found)["left_out"] == 3
    assert len(list(_points(found))) == 6 * 2


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0, 5.0]])
def test_equal_numbers_can_be_drawn(values) -> None:
    one = np.array(values)[:, None]
    points = {"true": [values], "predicted": [values]}
    part = {"metrics": number_metrics(one, one, ["a"]), "points": points}
    found = {"numbers": {"names": ["a"], "target": part}}
    assert describe_numbers(found)["rows"][2]["cells"] == ["–"]
    assert len(number_figures(found)) == 2


def test_without_numbers_there_is_no_section(make_run) -> None:
    assert describe_numbers({}) is None
    assert describe_numbers({"numbers": {"names": ["a"]}}) is None
    assert "Predicted numbers" not in write_page(make_run()).read_text()


# -- verdicts --------------------------------------------------------------------------------
@pytest.mark.parametrize(("task", "metric", "values", "sentence"), [
    ("regression", "mae", (16.5, 12.25), "The mean absolute error on the target was 16.5 before "
     "adaptation and is 12.25 after it (-4.25)."),
    ("multi_label", "f1", (0.5, 0.675), "The F1 on the target was 50.0 % before adaptation and is "
     "67.5 % after it (+17.5 points)."),
])  # fmt: skip
def test_source_free_run_is_compared_with_its_start(
    make_report, task: str, metric: str, values: tuple[float, float], sentence: str
) -> None:
    before, after = ({f"target/test/{metric}": value, "target/test/acc": 0.9} for value in values)
    run = make_report(task=task, source_free=True, metrics=after, initial=before)
    assert run_verdict(run, []) == sentence
    assert advice(run, []) is None
    assert "before adaptation is not in" in advice({**run, "initial": {}}, [])["text"]


def test_advice_names_the_measure_of_the_task(make_report) -> None:
    run = make_report(task="regression", source_free=True, metrics={"target/test/mae": 1.0})
    assert advice(run, [])["text"].startswith("The mean absolute error of the model before adapt")
    unlabelled = {**run, "predicted": {"target": {"samples": 3}}, "metrics": {}}
    text = advice(unlabelled, [])["text"]
    assert text.startswith("The mean absolute error on the target is unknown")


def test_gap_of_fractions_is_in_points(make_run) -> None:
    metrics = {"target/test/f1": 0.5, "source/test/f1": 0.675}
    page = write_page(make_run(task="multi_label", metrics=metrics)).read_text()
    assert "The F1 of the target is 17.5 points below that of the source." in page
