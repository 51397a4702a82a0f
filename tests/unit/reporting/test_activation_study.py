"""Activation study: verdicts on constructed values, values read from runs, and the page."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tl_lightning.reporting.studies.activation_claims import findings, paragraph
from tl_lightning.reporting.studies.activation_figures import CURVES
from tl_lightning.reporting.studies.activation_report import (
    Run,
    epochs_to,
    is_study,
    read_study,
    write_study,
)
from tl_lightning.reporting.sweep.page import collect
from tl_lightning.utils.files import write_text


def runs(part: str = "cnn", **values: list[dict[str, float]]) -> list[Run]:
    """Return one run per activation and seed, with the given measured values."""
    curve = np.linspace(0, 1, 5)
    return [
        Run(part, name, seed, curve, figures)
        for name, by_seed in values.items()
        for seed, figures in enumerate(by_seed)
    ]


def accuracies(*values: float) -> list[dict[str, float]]:
    return [{"test": value} for value in values]


@pytest.mark.parametrize(
    ("tanh", "relu", "verdict", "pattern"),
    [
        ([0.95, 0.96, 0.97], [0.90, 0.91, 0.925], "held", r"\+4.8 points, 95 % interval \+4.1 to"),
        ([0.90, 0.91, 0.925], [0.95, 0.96, 0.97], "did not hold", "−4.8 points, 95 % interval"),
        ([0.90, 0.96, 0.93], [0.93, 0.92, 0.95], "no clear difference", "3 paired seeds"),
        ([0.9, 0.9], [0.9, 0.9], "no clear difference", "2 paired seeds; the same for every seed"),
        ([0.75, 0.5], [0.5, 0.25], "no interval", "25.0 points, 2 paired seeds; the same for"),
        ([0.9], [0.8], "no interval", "1 paired seed; the spread over seeds is unknown"),
    ],
)
def test_verdicts(tanh: list[float], relu: list[float], verdict: str, pattern: str) -> None:
    (finding,) = findings(runs(tanh=accuracies(*tanh), relu=accuracies(*relu)))
    assert finding.verdict == verdict
    assert re.search(pattern, finding.sentence), finding.sentence


def test_interval_matches_scipy_for_pairs_of_the_same_seed() -> None:
    tanh, relu = [0.91, 0.95, 0.93, 0.99], [0.90, 0.92, 0.94]
    (finding,) = findings(runs(tanh=accuracies(*tanh), relu=accuracies(*relu)))
    expected = stats.ttest_rel(tanh[:3], relu).confidence_interval(0.95)
    np.testing.assert_allclose(finding.interval[2:4], (expected.low, expected.high))
    assert finding.interval.n == 3


def test_fewer_epochs_and_smaller_distances_are_better() -> None:
    fast = [{"test": 0.9, "epochs": e} for e in (3.0, 4.0, 3.0)]
    slow = [{"test": 0.9, "epochs": e} for e in (8.0, 10.0, 9.0)]
    by_figure = {f.claim.figure: f.verdict for f in findings(runs(tanh=fast, relu=slow))}
    assert by_figure["epochs"] == "held"
    near, far = ([{"target": 0.5, "a_distance": d + k} for d in (0.1, 0.12, 0.11)] for k in (0, 1))
    found = findings(runs("dann", tanh=far, relu=[{**f, "a_distance": f["a_distance"] + 0.001 * k}
                                                  for k, f in enumerate(near)]))  # fmt: skip
    assert {f.claim.figure: f.verdict for f in found} == {
        "target": "no clear difference",
        "a_distance": "did not hold",
    }


def test_source_claims_are_not_evaluated_on_runs_with_a_target() -> None:
    both = {"test": 0.9, "epochs": 3.0, "target": 0.5, "a_distance": 1.0}
    found = findings(runs("dann", tanh=[both], relu=[both]))
    assert {f.claim.figure for f in found} == {"target", "a_distance"}


def test_paragraph_has_every_verdict_with_its_interval() -> None:
    held = runs("cnn", tanh=accuracies(0.95, 0.96, 0.97), relu=accuracies(0.90, 0.91, 0.925))
    opposite = runs("heads", tanh=accuracies(0.90, 0.91, 0.925), relu=accuracies(0.95, 0.96, 0.97))
    unclear = runs("vectors", tanh=accuracies(0.90, 0.96, 0.93), relu=accuracies(0.93, 0.92, 0.95))
    text = paragraph(findings([*held, *opposite, *unclear]))
    assert text.startswith(
        "“Tanh is more accurate on test data than relu”: held in cnn (+4.8 points"
    )
    assert "; did not hold in heads (−4.8 points, " in text
    assert "; no clear difference in vectors (−0.3 points, " in text
    assert text.endswith("All results are from 3 seeds per comparison and apply to these tasks and "
                         "settings only.")  # fmt: skip
    assert "\n" not in text


def test_claims_without_pairs_have_no_findings() -> None:
    assert findings(runs(tanh=accuracies(0.9))) == []
    assert "No claim can be evaluated" in paragraph([])


def test_convergence_is_relative_to_the_last_epoch_of_the_run() -> None:
    assert epochs_to(np.array([0.1, 0.5, 0.96, 0.9, 1.0])) == 3
    assert epochs_to(np.array([0.5, 0.5])) == 1


@pytest.mark.parametrize("name", CURVES)
def test_derivatives_match_finite_differences(name: str) -> None:
    function, derivative = CURVES[name]
    x = np.linspace(-4, 4, 1000)
    slope = (function(x + 1e-6) - function(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(derivative(x), slope, atol=1e-6)


HEADER = (
    "epoch,source/val/acc,health/a_distance,activation/backbone.blocks.10.0/grad,"
    "activation/backbone.blocks.2.0/grad,activation/task.head.classifier.0/grad,"
    "activation/backbone.blocks.2.3/saturated,activation/methods.x.1/saturated\n"
)


@pytest.fixture
def study(tmp_path: Path, make_run: Callable[..., Path]) -> Path:
    for part, name in (("cnn", "source_only"), ("dann", "dann")):
        for activation in ("tanh", "relu"):
            for seed in range(2):
                node = {"part": part, "activation": activation}
                config = {"study": node, "method": {"dann": {}} if part == "dann" else {}}
                folder = make_run(f"s/{part}-{activation}-{seed}", name=name, seed=seed,
                                  config=config, group=f"{part}{activation}")  # fmt: skip
                text = (
                    HEADER + f"0,0.5,1.5,2,{seed + 1},7,0.5,1\n1,0.96,1.25,2,{seed + 3},9,0.25,1\n"
                )
                write_text(folder / "metrics.csv", text)
    make_run("s/other", name="mmd")
    return tmp_path / "s"


def test_read_study_sorts_runs_and_reads_their_values(study: Path) -> None:
    found = read_study(study)
    assert [(r.part, r.activation, r.seed) for r in found][:3] == [
        ("cnn", "tanh", 0), ("cnn", "tanh", 1), ("cnn", "relu", 0),
    ]  # fmt: skip
    # The first layer is block 2, not block 10; layers of methods are excluded.
    assert found[1].figures == {
        "test": 0.9, "epochs": 2.0, "saturated": 0.25, "first": 3.0, "last": 8.0,
    }  # fmt: skip
    assert found[-1].figures["a_distance"] == 1.25
    assert found[-1].figures["target"] == 0.6
    assert is_study(collect(study))


@pytest.mark.slow
def test_write_study_writes_a_self_contained_page_and_tables(study: Path) -> None:
    page = write_study(study).read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert "Convolutional network from scratch" in page
    assert "no clear difference" in page
    rows = list(csv.DictReader((study / "study.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert float(rows[0]["test"]) == 0.9
    assert (
        "| dann | relu | 0, 1 | 90.0 ± 0.0 | 60.0 ± 0.0 | 1.25 ± 0.00 |"
        in (study / "study.md").read_text()
    )
