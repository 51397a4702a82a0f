"""The command ``tl-export``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import tl_lightning as tl
from helpers import config
from tl_lightning.cli import export as command
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training


@pytest.mark.parametrize(("arguments", "text"), [
    (["chekpoint=a"], r"chekpoint is not an option; did you mean 'checkpoint'\?"),
    (["out=a", "out=b"], r"out is given more than once; set out only once"),
    (["out=a"], r"checkpoint is missing; set checkpoint=<run folder or file.ckpt>"),
    (["checkpoint=a"], r"out is missing; set out=<new folder or file>"),
    (["checkpoint=a", "out=b", "abstain=much"], r"abstain=much is not a number; set abstain=0.95"),
    (["checkpoint=a", "out=b", "format=onxx"], r"format=onxx is not supported; did you mean"),
])  # fmt: skip
def test_a_wrong_argument_is_named(arguments: list[str], text: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=text):
        command._export(arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "model"
    arguments = ["export.py", f"checkpoint={tmp_path}", f"out={out}", "format=safetensors"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        command.export()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: checkpoint={tmp_path} is neither a checkpoint nor the folder")
    assert error.count("\n") == 1
    assert not out.exists()


def test_what_was_measured_is_printed(tmp_path: Path, monkeypatch, capsys) -> None:
    run = tmp_path / "run"
    training.fit(config("model=source_only", "baselines=[]", "trainer.max_epochs=1"), run)
    capsys.readouterr()
    out = tmp_path / "model"
    arguments = [f"checkpoint={run}", f"out={out}", "format=safetensors", "precision=float16",
                 "max_loss=1"]  # fmt: skip
    command._export(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("samples: validation samples of the run's target")
    assert lines[1].startswith("float32: probabilities differ by at most ")
    assert "the same class for 100.0 % of the samples" in lines[1]
    assert lines[2].startswith("float16: probabilities differ by at most ")
    assert "times as fast as float32" in lines[-2]
    assert lines[-1] == f"exported: {out}"

    found = tl.export(run, tmp_path / "again.safetensors", format="safetensors", resize=False)
    assert found["format"] == "safetensors"
    assert (tmp_path / "again.safetensors").is_file()


def test_the_lines_have_the_accuracy_if_it_is_known() -> None:
    float32 = {"samples": 9, "max_difference_of_probabilities": 1e-6, "same_class": 1.0}
    int8 = {
        **float32, "accuracy_of_checkpoint": 0.9, "accuracy_of_export": 0.88,
        "speed": {"per_second": 50.0, "batch": 16, "threads": 1, "speed": 1.5},
    }  # fmt: skip
    parity = {"samples_are": "given texts", "float32": float32, "int8": int8}
    assert command.report({"parity": parity})[-2:] == [
        "int8: accuracy 88.0 %, that of the checkpoint 90.0 %",
        "int8: 50 samples/s in batches of 16 on 1 CPU thread(s), 1.50 times as fast as float32",
    ]
