"""Baselines beside an adapted model."""

from __future__ import annotations

import sys

import pytest

from helpers import config
from tl_lightning.brackets import baseline, wanted


def asked(monkeypatch, *overrides: str, sweeping: bool = False, argv: str = "") -> list[str]:
    monkeypatch.setattr(sys, "argv", ["train.py", *argv.split()])
    return wanted(config(*overrides), sweeping)


def test_auto_adds_joint_batch_norm_in_a_sweep_only(monkeypatch) -> None:
    assert asked(monkeypatch) == []
    assert asked(monkeypatch, sweeping=True) == ["joint_bn"]
    assert asked(monkeypatch, "model=source_only", sweeping=True) == []


def test_what_the_sweep_runs_is_not_run_again(monkeypatch) -> None:
    both = "bracket=[source_only,joint_bn]"
    line = "-m model=source_only,dann seed=0,1"
    assert asked(monkeypatch, both, sweeping=True, argv=line) == ["joint_bn"]
    assert asked(monkeypatch, both) == ["source_only", "joint_bn"]


def test_several_devices_say_that_there_are_none(monkeypatch, capsys) -> None:
    assert asked(monkeypatch, "bracket=[joint_bn]", "trainer.devices=2") == []
    assert "several devices train one model a process; type -m" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "kind"), [("source_only", "FineTuning"), ("joint_bn", "Domain")])
def test_a_baseline_is_the_preset_of_its_name(name, kind) -> None:
    """The same group in a table, whether it was swept or trained beside an adapted run."""
    from tl_lightning.pipeline import check
    from tl_lightning.results import group_of

    made = baseline(check(config()), name)
    assert kind in made["model"]["_target_"]
    assert group_of(made) == group_of(check(config(f"model={name}")))
