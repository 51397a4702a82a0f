"""The activation study: its part on vectors, and errors of the command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from helpers import command
from tl_lightning.cli.studies import _activation_study
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.artifacts import read_curves
from tl_lightning.reporting.schema import read_report
from tl_lightning.training import vector_study


def test_task_is_balanced_with_disjoint_splits() -> None:
    task = vector_study.make_task(3)
    assert [len(part.x) for part in task] == [512, 512, 4096]
    labels = torch.cat([part.y for part in task])
    assert labels.double().mean() == 0.5
    assert len(torch.cat([part.x for part in task]).unique(dim=0)) == 5120
    assert not torch.equal(task.train.x, vector_study.make_task(4).train.x)


def test_run_depends_only_on_its_seed(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(vector_study.RECIPE, "epochs", 3)
    torch.manual_seed(1)
    first = vector_study.fit_vectors("tanh", 5, tmp_path / "a")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert vector_study.fit_vectors("tanh", 5, tmp_path / "b") == first
    assert torch.equal(torch.get_rng_state(), state)
    texts = [(tmp_path / name / "metrics.csv").read_text() for name in "ab"]
    assert texts[0] == texts[1]


def test_files_of_a_vector_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(vector_study.RECIPE, "epochs", 4)
    accuracy = vector_study.fit_vectors("relu", 0, tmp_path)
    report = read_report(tmp_path)
    assert report["metrics"] == {"source/test/acc": accuracy}
    assert report["config"]["study"] == {"part": "vectors", "activation": "relu"}
    curves = read_curves(tmp_path / "metrics.csv")
    assert set(curves) == {
        "source/val/acc", "activation/task.head.classifier.0/grad",
        "activation/task.head.classifier.2/grad", "activation/task.head.classifier.1/saturated",
    }  # fmt: skip
    assert all(len(series.value) == 4 for series in curves.values())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seeds=0", "seeds=0 must be a positive integer; set seeds=3"),
        ("seeds=few", "seeds=few must be a positive integer; set seeds=3"),
        ("seed=4", "seed=4 is not supported here; set seeds=3 for the seeds 0, 1 and 2"),
    ],
)
def test_invalid_arguments_are_reported(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _activation_study([argument])


@pytest.mark.slow
def test_command_runs_all_parts_and_writes_one_report(tmp_path: Path) -> None:
    done: subprocess.CompletedProcess[str] = command(
        "activation_study",
        ["seeds=1", f"out={tmp_path}", "study=cnn,dann", "study.activation=tanh,relu",
         "trainer=cpu", "trainer.max_epochs=2", "data.steps_per_epoch=2", "data.target_copies=1"],
        tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "study.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        *(["cnn", name, "0"] for name in ("tanh", "relu")),
        *(["vectors", name, "0"] for name in ("tanh", "relu", "sigmoid", "gelu")),
        *(["dann", name, "0"] for name in ("tanh", "relu")),
    ]
    assert "study: " in done.stdout
