"""Baselines of an adapted model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from helpers import config, file_config
from tl_lightning.cli.common import hide_secrets, remove_untouched
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError
from tl_lightning.sweeps import baselines
from tl_lightning.sweeps.baselines import baseline, baselines_of, fit_with_baselines
from tl_lightning.training.results import group_of
from tl_lightning.utils.files import run_lock


def requested(monkeypatch, *overrides: str, sweeping: bool = False, argv: str = "") -> list[str]:
    monkeypatch.setattr(sys, "argv", ["train.py", *argv.split()])
    return baselines_of(check(config(*overrides)), sweeping)


def test_auto_adds_joint_bn_in_sweeps_only(monkeypatch) -> None:
    assert requested(monkeypatch) == []
    assert requested(monkeypatch, sweeping=True) == ["joint_bn"]
    assert requested(monkeypatch, "model=source_only", sweeping=True) == []


def test_models_in_the_sweep_are_not_trained_again(monkeypatch) -> None:
    both = "baselines=[source_only,joint_bn]"
    argv = "-m model=source_only,dann seed=0,1"
    assert requested(monkeypatch, both, sweeping=True, argv=argv) == ["joint_bn"]
    assert requested(monkeypatch, both) == ["source_only", "joint_bn"]


def test_frozen_batch_norm_has_no_joint_baseline() -> None:
    run = check(config("baselines=true"))
    run.nodes["backbone"].params["freeze_bn"] = True
    assert baselines_of(run, False) == ["source_only", "oracle"]


def test_true_adds_all_baselines(monkeypatch, capsys) -> None:
    assert requested(monkeypatch, "baselines=true") == ["source_only", "joint_bn", "oracle"]
    assert requested(monkeypatch, "baselines=false") == []
    assert requested(monkeypatch, "baselines=false", sweeping=True) == []
    assert requested(monkeypatch, "baselines=true", "model=source_only") == []
    argv = "-m model=oracle,dann"
    swept = requested(monkeypatch, "baselines=true", sweeping=True, argv=argv)
    assert swept == ["source_only", "joint_bn"]
    assert capsys.readouterr().out == ""


def test_no_oracle_if_it_would_be_tested_on_its_training_images(tmp_path, capsys) -> None:
    cfg = file_config(tmp_path, "model=dann", "data.transductive=true")
    cfg["baselines"] = True
    assert baselines_of(check(cfg), False) == ["source_only", "joint_bn"]
    assert "set data.transductive=false to train it" in capsys.readouterr().out


def test_selection_rule_of_the_oracle_uses_target_labels() -> None:
    rules = {rule: baseline(config(f"selection={rule}"), "oracle")["selection"]
             for rule in ("last", "im", "source_val")}  # fmt: skip
    assert rules == {"last": "last", "im": "oracle", "source_val": "oracle"}
    assert baseline(config("selection=im"), "source_only")["selection"] == "im"


@pytest.mark.parametrize(("resume", "expected"), [
    ("/a/run/checkpoints/last.ckpt", "auto"), ("auto", "auto"), ("null", None),
])  # fmt: skip
def test_baseline_is_never_resumed_from_the_adapted_run(resume, expected) -> None:
    assert baseline(config(f"resume={resume}"), "source_only")["resume"] == expected


def test_baseline_of_a_sweep_is_never_resumed_from_the_adapted_run(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    fitted = []
    monkeypatch.setattr(baselines, "fit", lambda *args, **_: fitted.append(args[0]) or {})
    cfg = OmegaConf.create(config("resume=/a/run", "baselines=[source_only]"))
    fit_with_baselines(cfg, tmp_path, True)
    assert [one["resume"] for one in fitted] == ["/a/run", "auto"]


def test_invalid_baseline_is_reported_before_training(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    cfg = file_config(tmp_path / "nowhere", "model=dann", "data.transductive=true")
    cfg["baselines"] = ["source_only", "oracle"]
    with pytest.raises(ConfigError, match=r"it was trained on, because.*remove it from baselines"):
        fit_with_baselines(OmegaConf.create(cfg), tmp_path / "run", False)
    assert not (tmp_path / "run").exists()


def test_finished_run_is_not_overwritten(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    fitted: list[Path] = []
    monkeypatch.setattr(baselines, "fit", lambda *args, **_: fitted.append(args[1]) or {})
    (tmp_path / "report.json").touch()
    with pytest.raises(ConfigError, match=r"contains a finished run; set another hydra.run"):
        fit_with_baselines(OmegaConf.create(config("baselines=false")), tmp_path, False)
    assert not fitted
    fit_with_baselines(OmegaConf.create(config("resume=auto", "baselines=false")), tmp_path, False)
    assert fitted == [tmp_path]


def test_second_run_in_the_folder_of_a_running_one_is_rejected(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(baselines, "WAIT_S", 0.0)
    fitted: list[Path] = []
    monkeypatch.setattr(baselines, "fit", lambda *args, **_: fitted.append(args[1]) or {})
    cfg = OmegaConf.create(config("baselines=false"))
    with run_lock(tmp_path):
        with pytest.raises(ConfigError, match=r"another process is running in .*hydra\.run\.dir"):
            fit_with_baselines(cfg, tmp_path, False)
        remove_untouched(tmp_path)  # as the rejected command does on exit
        assert tmp_path.is_dir()
    assert not fitted
    fit_with_baselines(cfg, tmp_path, False)
    assert fitted == [tmp_path]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_baselines_of_a_source_free_model_are_trained_from_scratch(
    monkeypatch, capsys, tmp_path
) -> None:
    free = ("model=source_free", "method=[shot]", "init=/a/run")
    every = "baselines=[source_only,joint_bn,oracle]"
    assert requested(monkeypatch, *free, every) == ["source_only", "oracle"]
    assert "baseline joint_bn: shot does not train on the source" in capsys.readouterr().out
    assert requested(monkeypatch, *free, sweeping=True) == []
    fitted = []
    monkeypatch.setattr(baselines, "fit", lambda *args, **_: fitted.append(args[0]) or {})
    for number, overrides in enumerate(
        [(*free, every), ("init=/a/run", "baselines=[source_only]")]
    ):
        cfg = OmegaConf.create(config(*overrides))
        fit_with_baselines(cfg, tmp_path / str(number), False)
    assert [one["init"] for one in fitted] == ["/a/run", None, None, "/a/run", "/a/run"]


def test_baselines_are_skipped_on_several_devices(monkeypatch, capsys) -> None:
    assert requested(monkeypatch, "baselines=[joint_bn]", "trainer.devices=2") == []
    assert "not supported on several devices; use -m model=joint_bn," in capsys.readouterr().out


@pytest.mark.parametrize(("name", "kind"), [
    ("source_only", "FineTuning"), ("joint_bn", "Domain"), ("oracle", "LabelledTarget"),
])  # fmt: skip
def test_baseline_equals_the_preset_of_its_name(name, kind) -> None:
    """It is in the same group as a swept run, so that a table combines them."""
    cfg = {**config(), "selection": check(config()).selection}  # one rule for all of them
    own = check(baseline(cfg, name))
    assert kind in own.model.target
    assert group_of(own) == group_of(check(config(f"model={name}")))


def test_an_unfinished_run_is_not_overwritten(tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(ConfigError, match=r"contains an unfinished run, .*set resume=auto to cont"):
        fit_with_baselines(OmegaConf.create(config("model=source_only")), tmp_path, sweeping=False)


def test_passwords_are_masked_in_the_files_of_hydra(tmp_path) -> None:
    file = tmp_path / ".hydra" / "overrides.yaml"
    file.parent.mkdir()
    file.write_text("- logger.m.tracking_uri=sql://me:pw@h\n- seed=1\n")
    hide_secrets(tmp_path)
    assert file.read_text() == "- logger.m.tracking_uri=sql://me:***@h\n- seed=1\n"
