"""Baselines beside an adapted model."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from helpers import config, file_config
from tl_lightning.cli.common import remove_untouched
from tl_lightning.errors import ConfigError
from tl_lightning.sweeps import baselines
from tl_lightning.sweeps.baselines import baseline, fit_with_baselines, wanted
from tl_lightning.utils.files import alone_in


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


def test_true_is_what_lies_below_and_above(monkeypatch, capsys) -> None:
    assert asked(monkeypatch, "bracket=true") == ["source_only", "oracle"]
    assert asked(monkeypatch, "bracket=false") == []
    assert asked(monkeypatch, "bracket=false", sweeping=True) == []
    assert asked(monkeypatch, "bracket=true", "model=source_only") == []
    line = "-m model=oracle,dann"
    assert asked(monkeypatch, "bracket=true", sweeping=True, argv=line) == ["source_only"]
    assert capsys.readouterr().out == ""


def test_no_oracle_that_would_be_tested_on_what_it_learned(monkeypatch, capsys) -> None:
    found = config("bracket=true")
    found["data"]["transductive"] = True
    assert wanted(found, False) == ["source_only"]
    assert "type data.transductive=false for one" in capsys.readouterr().out


def test_an_epoch_of_the_oracle_is_chosen_by_what_it_learns() -> None:
    rules = {rule: baseline(config(f"selection={rule}"), "oracle")["selection"]
             for rule in ("last", "im", "source_val")}  # fmt: skip
    assert rules == {"last": "last", "im": "oracle", "source_val": "oracle"}
    assert baseline(config("selection=im"), "source_only")["selection"] == "im"


@pytest.mark.parametrize(("wish", "theirs"), [
    ("/a/run/checkpoints/last.ckpt", "auto"), ("auto", "auto"), ("null", None),
])  # fmt: skip
def test_a_baseline_never_goes_on_from_the_adapted_run(wish, theirs) -> None:
    assert baseline(config(f"resume={wish}"), "source_only")["resume"] == theirs


def test_a_fault_of_a_baseline_stops_before_the_first_training(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    found = file_config(tmp_path / "nowhere", "model=dann", "data.transductive=true")
    found["bracket"] = ["source_only", "oracle"]
    with pytest.raises(ConfigError, match=r"whose labels it has learned.*leave it out of the br"):
        fit_with_baselines(OmegaConf.create(found), tmp_path / "run", False)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_written_over(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    fitted: list[Path] = []
    monkeypatch.setattr(baselines, "fit", lambda *given: fitted.append(given[1]) or {})
    (tmp_path / "report.json").touch()
    with pytest.raises(ConfigError, match=r"holds a finished run; type another hydra"):
        fit_with_baselines(OmegaConf.create(config("bracket=false")), tmp_path, False)
    assert not fitted
    fit_with_baselines(OmegaConf.create(config("resume=auto", "bracket=false")), tmp_path, False)
    assert fitted == [tmp_path]


def test_a_second_run_in_a_folder_at_work_is_refused_and_harms_nothing(
    monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(baselines, "alone_in", partial(alone_in, wait_s=0))
    fitted: list[Path] = []
    monkeypatch.setattr(baselines, "fit", lambda *given: fitted.append(given[1]) or {})
    asked = OmegaConf.create(config("bracket=false"))
    with alone_in(tmp_path):
        with pytest.raises(ConfigError, match=r"another process is at work in .*hydra\.run\.dir"):
            fit_with_baselines(asked, tmp_path, False)
        remove_untouched(tmp_path)  # as the refused command does at its end
        assert tmp_path.is_dir()
    assert not fitted
    fit_with_baselines(asked, tmp_path, False)
    assert fitted == [tmp_path]
    assert not [*tmp_path.iterdir()]


def test_beside_a_source_free_model_baselines_start_anew(monkeypatch, capsys) -> None:
    free = ("model=source_free", "adapter=[shot]", "init=/a/run")
    every = "bracket=[source_only,joint_bn,oracle]"
    assert asked(monkeypatch, *free, every) == ["source_only", "oracle"]
    assert "no joint_bn beside shot, which is not shown the source" in capsys.readouterr().out
    assert asked(monkeypatch, *free, sweeping=True) == []
    assert baseline(config(*free), "source_only")["init"] is None
    assert baseline(config("init=/a/run"), "source_only")["init"] == "/a/run"


def test_several_devices_say_that_there_are_none(monkeypatch, capsys) -> None:
    assert asked(monkeypatch, "bracket=[joint_bn]", "trainer.devices=2") == []
    assert "several devices train one model a process; type -m" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "kind"), [
    ("source_only", "FineTuning"), ("joint_bn", "Domain"), ("oracle", "LabelledTarget"),
])  # fmt: skip
def test_a_baseline_is_the_preset_of_its_name(name, kind) -> None:
    """The same group in a table, whether it was swept or trained beside an adapted run."""
    from tl_lightning.config.validation.check import check
    from tl_lightning.training.results import group_of

    made = baseline(check(config()), name)
    assert kind in made["model"]["_target_"]
    assert group_of(made) == group_of(check(config(f"model={name}")))
