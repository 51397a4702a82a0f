"""What a sweep has done is read from its run folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers import config
from tl_lightning.config import identity
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.schema import SCHEMA
from tl_lightning.sweeps import baselines, jobs
from tl_lightning.utils import files, run_id
from tl_lightning.utils.files import write_json


def done(folder, found: dict[str, Any], **more: Any) -> None:
    """Leave in a folder what a finished job leaves."""
    jobs.begin(folder, found, **more)
    write_json(folder / "report.json", {"schema": SCHEMA, "kind": "run", "name": "kept"})


@pytest.mark.parametrize("change", [
    "seed=1", "optimizer.lr=0.5", "track_target=true", "callbacks=ema", "selection=source_val",
    "trainer.max_epochs=9", "checkpoint.every_n_epochs=2", "adapter.dann.max_lambda=0.777",
])  # fmt: skip
def test_what_a_job_computes_is_in_its_key(change) -> None:
    assert identity.job_key(config(change)) != identity.job_key(config())


@pytest.mark.parametrize("change", [
    "resume=auto", "cache.dir=/elsewhere", "data.num_workers=7", "report.samples=3", "logger=csv",
    "bracket=[oracle]", "checkpoint.min_seconds=9", "+callbacks.bar.refresh_rate=3",
])  # fmt: skip
def test_where_and_beside_what_it_runs_is_not(change) -> None:
    found = config(change) if not change.startswith("+") else config()
    if change.startswith("+"):
        found["callbacks"]["bar"] = {"_target_": "a bar where a person watches"}
    assert identity.job_key(found) == identity.job_key(config())


def test_runs_from_before_a_setting_was_there_compare_where_it_says_nothing() -> None:
    found = config()
    assert found["lr_for_batch"] is None
    assert found["trainer"]["sync_batchnorm"] is False
    older = {key: value for key, value in found.items() if key != "lr_for_batch"}
    older["trainer"] = {k: v for k, v in found["trainer"].items() if k != "sync_batchnorm"}
    assert identity.identity(older) == identity.identity(found)
    assert identity.identity(config("lr_for_batch=64")) != identity.identity(found)
    assert identity.identity(config("trainer.sync_batchnorm=true")) != identity.identity(found)


def test_the_folder_of_a_job_ends_in_its_key_whatever_else_is_swept() -> None:
    plain = config("seed=3")
    whole = OmegaConf.create({**plain, "hydra": {"subdir": "${model.name}-${tl_key:}"}})
    assert whole.hydra.subdir == f"dann-{identity.job_key(plain)}"


def test_a_job_is_done_once_its_report_and_its_baselines_are_there(tmp_path) -> None:
    found = config()
    assert jobs.finished(tmp_path, found) is None
    jobs.begin(tmp_path, found, ["joint_bn"])
    assert jobs.finished(tmp_path, found) is None
    done(tmp_path, found, baselines=["joint_bn"])
    assert jobs.finished(tmp_path, found)["name"] == "kept"
    assert jobs.wholly_finished(tmp_path, found) is None
    done(tmp_path / "bracket" / "joint_bn", found)
    assert jobs.wholly_finished(tmp_path, found)["name"] == "kept"
    more = {**found, "bracket": ["oracle"]}  # asked for something more: not whole any longer
    assert jobs.wholly_finished(tmp_path, more) is None
    assert jobs.finished(tmp_path, more) is not None
    jobs.note_failure(tmp_path, "a baseline failed", ["seed=0"])
    jobs.failures.clear()
    assert jobs.wholly_finished(tmp_path, found) is None
    jobs.begin(tmp_path, found, ["joint_bn"])
    assert not (tmp_path / "failed.json").exists()


def test_a_report_that_was_cut_short_or_came_from_no_sweep_is_not_done(tmp_path) -> None:
    done(tmp_path, config())
    (tmp_path / "report.json").write_text('{"schema": 1, "kind"')
    assert jobs.finished(tmp_path, config()) is None
    done(tmp_path, config())
    (tmp_path / "job.json").unlink()
    assert jobs.finished(tmp_path, config()) is None


def test_a_folder_of_another_job_is_refused(tmp_path) -> None:
    done(tmp_path, config("seed=1"))
    with pytest.raises(ConfigError, match=r"holds another job .* type another hydra\.sweep\.dir"):
        jobs.finished(tmp_path, config("seed=2"))


HOLD = """
import sys, time
from pathlib import Path
from tl_lightning.utils.files import held
with held(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_two_processes_never_hold_one_job_and_a_kill_lets_go(tmp_path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"True\n"
    with files.held(tmp_path) as mine:
        assert not mine
    other.kill()
    other.wait()
    other.stdout.close()
    with files.held(tmp_path) as mine:
        assert mine


class Fits:
    """Stands for pipeline.fit; ends as told, then leaves a report."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends, self.calls = list(ends), []

    def __call__(self, found, folder, beside="") -> dict[str, Any]:
        self.calls.append((folder.name, found["resume"]))
        end = self.ends.pop(0) if self.ends else None
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").touch()
        if end:
            raise end
        report = {"schema": SCHEMA, "kind": "run", "name": folder.name}
        write_json(folder / "report.json", report)
        return report


def test_only_what_is_missing_runs_and_goes_on_from_where_it_was(monkeypatch, tmp_path) -> None:
    """The model is done, its baseline was cut: the baseline alone goes on."""
    fits = Fits(None, KeyboardInterrupt())
    monkeypatch.setattr(baselines, "fit", fits)
    cfg, folder = OmegaConf.create(config()), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        baselines.fit_with_baselines(cfg, folder, sweeping=True)
    assert baselines.fit_with_baselines(cfg, folder, sweeping=True)["name"] == "run"
    assert baselines.fit_with_baselines(cfg, folder, sweeping=True)["name"] == "run"
    assert fits.calls == [("run", "auto"), ("joint_bn", "auto"), ("joint_bn", "auto")]


def test_a_wish_to_start_from_elsewhere_holds_until_the_run_has_its_own(monkeypatch, tmp_path):
    fits = Fits(KeyboardInterrupt())
    monkeypatch.setattr(baselines, "fit", fits)
    cfg, folder = OmegaConf.create(config("bracket=false", "resume=/a/run")), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        baselines.fit_with_baselines(cfg, folder, sweeping=True)
    baselines.fit_with_baselines(cfg, folder, sweeping=True)
    assert fits.calls == [("run", "/a/run"), ("run", "auto")]


def test_what_another_process_is_at_work_on_is_left_to_it(monkeypatch, tmp_path, capsys) -> None:
    fits = Fits()
    monkeypatch.setattr(baselines, "fit", fits)
    with files.held(tmp_path / "run"):
        found = baselines.fit_with_baselines(OmegaConf.create(config()), tmp_path / "run", True)
    assert (found, fits.calls) == ({}, [])
    assert "left to the process that is at work on it: run" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_ranks_do_not_wait_for_one_that_leaves_a_job(name, monkeypatch, tmp_path) -> None:
    """Only the first rank looks at the lock; by its exit code the others are ended."""
    fits = Fits()
    monkeypatch.setattr(baselines, "fit", fits)
    monkeypatch.setenv(name, "0")
    two = OmegaConf.create(config("trainer.devices=2", "bracket=[]"))
    with files.held(tmp_path / "run"), pytest.raises(SystemExit) as end:
        baselines.fit_with_baselines(two, tmp_path / "run", True)
    assert end.value.code == 143
    assert fits.calls == []


@pytest.fixture
def launched(monkeypatch):
    """Return a way to ask for the run's id under given variables."""

    def ask(**variables: str) -> str:
        for name in ("TL_RUN_ID", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found = run_id.run_id()
        assert os.environ["TL_RUN_ID"] == found, "what this process starts would get another one"
        return found

    yield ask
    monkeypatch.setenv("TL_RUN_ID", "")


def test_one_id_for_all_ranks_whoever_started_them(launched) -> None:
    one = launched(SLURM_JOB_ID="17")
    assert one.startswith("17-")
    assert launched(SLURM_JOB_ID="17") == one
    assert launched(TL_RUN_ID="mine", SLURM_JOB_ID="17") == "mine"
    assert launched(TORCHELASTIC_RUN_ID="given") == "given"
    local = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    assert launched(**local) == launched(**local)
    assert launched(**local).startswith(f"torchrun-{os.getppid()}-")
    with pytest.raises(ConfigError, match=r"type torchrun --rdzv-id=<a name for this run>"):
        launched(**{**local, "WORLD_SIZE": "4"})


def test_two_commands_of_one_slurm_job_have_two_ids(launched, monkeypatch) -> None:
    """Else the second would write over the first's run."""
    found = set()
    for words in (["seed=0"], ["seed=1"], ["seed=0"]):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        found.add(launched(SLURM_JOB_ID="17"))
    assert len(found) == 2


def test_the_swept_models_are_known_in_the_processes_of_a_launcher(monkeypatch) -> None:
    monkeypatch.delenv("TL_SWEPT_MODELS", raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "model=source_only,dann"])
    assert jobs.swept_models() == ["source_only", "dann"]
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "model=dann"])
    monkeypatch.setenv("TL_SWEPT_MODELS", "source_only,dann")
    assert jobs.swept_models() == ["source_only", "dann"]


def test_a_failure_says_what_and_is_counted(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "failures", [])
    jobs.note_failure(tmp_path, "too small", ["seed=0"])
    note = json.loads((tmp_path / "failed.json").read_text())
    assert note == {"error": "too small", "overrides": ["seed=0"]}
    assert jobs.failures == ["too small"]
