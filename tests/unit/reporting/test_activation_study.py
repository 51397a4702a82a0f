"""The study's verdicts from made-up figures, its numbers and its page."""

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
    curve = np.linspace(0, 1, 5)
    return [
        Run(part, name, seed, curve, figures)
        for name, own in values.items()
        for seed, figures in enumerate(own)
    ]


def figured(*values: float) -> list[dict[str, float]]:
    return [{"test": value} for value in values]


@pytest.mark.parametrize(
    ("tanh", "relu", "verdict", "words"),
    [
        ([0.95, 0.96, 0.97], [0.90, 0.91, 0.925], "held", r"\+4.8 points, 95 % interval \+4.1 to"),
        ([0.90, 0.91, 0.925], [0.95, 0.96, 0.97], "did not hold", "−4.8 points, 95 % interval"),
        ([0.90, 0.96, 0.93], [0.93, 0.92, 0.95], "no clear difference", "3 paired seeds"),
        ([0.9, 0.9], [0.9, 0.9], "no clear difference", "the same in every seed"),
        ([0.75, 0.5], [0.5, 0.25], "no interval", "25.0 points, 2 paired seeds: the same in every"),
        ([0.9], [0.8], "no interval", "1 paired seed: one seed says nothing about spread"),
    ],
)
def test_verdicts(tanh: list[float], relu: list[float], verdict: str, words: str) -> None:
    (found,) = findings(runs(tanh=figured(*tanh), relu=figured(*relu)))
    assert found.verdict == verdict
    assert re.search(words, found.sentence), found.sentence


def test_the_interval_is_scipys_of_pairs_of_one_seed() -> None:
    tanh, relu = [0.91, 0.95, 0.93, 0.99], [0.90, 0.92, 0.94]
    (found,) = findings(runs(tanh=figured(*tanh), relu=figured(*relu)))
    theirs = stats.ttest_rel(tanh[:3], relu).confidence_interval(0.95)
    np.testing.assert_allclose(found.interval[2:4], (theirs.low, theirs.high))
    assert found.interval.n == 3


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


def test_what_adapts_is_not_asked_how_it_does_on_the_source() -> None:
    both = {"test": 0.9, "epochs": 3.0, "target": 0.5, "a_distance": 1.0}
    found = findings(runs("dann", tanh=[both], relu=[both]))
    assert {f.claim.figure for f in found} == {"target", "a_distance"}


def test_one_paragraph_says_each_verdict_with_its_interval() -> None:
    held = runs("cnn", tanh=figured(0.95, 0.96, 0.97), relu=figured(0.90, 0.91, 0.925))
    lost = runs("heads", tanh=figured(0.90, 0.91, 0.925), relu=figured(0.95, 0.96, 0.97))
    open_ = runs("vectors", tanh=figured(0.90, 0.96, 0.93), relu=figured(0.93, 0.92, 0.95))
    text = paragraph(findings([*held, *lost, *open_]))
    assert text.startswith(
        "“Tanh is more accurate on test data than relu”: held in cnn (+4.8 points"
    )
    assert "; did not hold in heads (−4.8 points, " in text
    assert "; no clear difference in vectors (−0.3 points, " in text
    assert text.endswith("All of it from 3 seeds a comparison, on these tasks and with these "
                         "settings only.")  # fmt: skip
    assert "\n" not in text


def test_no_pairs_are_said_to_be_none() -> None:
    assert findings(runs(tanh=figured(0.9))) == []
    assert "nothing can be said" in paragraph([])


def test_convergence_is_of_the_runs_own_last_epoch() -> None:
    assert epochs_to(np.array([0.1, 0.5, 0.96, 0.9, 1.0])) == 3
    assert epochs_to(np.array([0.5, 0.5])) == 1


@pytest.mark.parametrize("name", CURVES)
def test_derivatives_are_those_of_the_functions(name: str) -> None:
    function, derivative = CURVES[name]
    x = np.linspace(-4, 4, 1000)
    slope = (function(x + 1e-6) - function(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(derivative(x), slope, atol=1e-6)


HEADER = (
    "epoch,source/val/acc,health/a_distance,activation/backbone.blocks.10.0/grad,"
    "activation/backbone.blocks.2.0/grad,activation/task.head.classifier.0/grad,"
    "activation/backbone.blocks.2.3/saturated,activation/adapters.x.1/saturated\n"
)


@pytest.fixture
def study(tmp_path: Path, make_run: Callable[..., Path]) -> Path:
    for part, name in (("cnn", "source_only"), ("dann", "dann")):
        for activation in ("tanh", "relu"):
            for seed in range(2):
                chosen = {"part": part, "activation": activation}
                config = {"study": chosen, "adapter": {"dann": {}} if part == "dann" else {}}
                folder = make_run(f"s/{part}-{activation}-{seed}", name=name, seed=seed,
                                  config=config, group=f"{part}{activation}")  # fmt: skip
                text = (
                    HEADER + f"0,0.5,1.5,2,{seed + 1},7,0.5,1\n1,0.96,1.25,2,{seed + 3},9,0.25,1\n"
                )
                write_text(folder / "metrics.csv", text)
    make_run("s/other", name="mmd")
    return tmp_path / "s"


def test_what_is_read(study: Path) -> None:
    found = read_study(study)
    assert [(r.part, r.activation, r.seed) for r in found][:3] == [
        ("cnn", "tanh", 0), ("cnn", "tanh", 1), ("cnn", "relu", 0),
    ]  # fmt: skip
    # The first layer is block 2, not block 10; adapters are no part of the network.
    assert found[1].figures == {
        "test": 0.9, "epochs": 2.0, "saturated": 0.25, "first": 3.0, "last": 8.0,
    }  # fmt: skip
    assert found[-1].figures["a_distance"] == 1.25
    assert found[-1].figures["target"] == 0.6
    assert is_study(collect(study))


def test_the_page_and_tables_are_written_and_ask_nothing_of_a_network(study: Path) -> None:
    page = write_study(study).read_text()
    assert "http" not in page
    assert "Convolutional network from scratch" in page
    assert "no clear difference" in page
    rows = list(csv.DictReader((study / "study.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert float(rows[0]["test"]) == 0.9
    assert (
        "| dann | relu | 0, 1 | 90.0 ± 0.0 | 60.0 ± 0.0 | 1.25 ± 0.00 |"
        in (study / "study.md").read_text()
    )
