"""The state of a sweep is read from its run folders."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers import config, file_config
from layouts import class_folders
from tl_lightning.config import identity
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.schema import SCHEMA
from tl_lightning.sweeps import baselines, jobs
from tl_lightning.training import data_version
from tl_lightning.utils import files, run_id
from tl_lightning.utils.files import write_json


def write_finished_job(folder, config: dict[str, Any], **more: Any) -> None:
    """Write the files of a finished job."""
    jobs.begin(folder, config, **more)
    write_json(folder / "report.json", {"schema": SCHEMA, "kind": "run", "name": "finished"})


@pytest.mark.parametrize("change", [
    "seed=1", "optimizer.lr=0.5", "track_target=true", "callbacks=ema", "selection=source_val",
    "trainer.max_epochs=9", "checkpointing.every_n_epochs=2", "method.dann.max_lambda=0.777",
])  # fmt: skip
def test_job_key_depends_on_what_is_computed(change) -> None:
    assert identity.job_key(config(change)) != identity.job_key(config())


@pytest.mark.parametrize("change", [
    "resume=auto", "cache.dir=/elsewhere", "data.num_workers=7", "report.samples=3", "logger=csv",
    "baselines=[oracle]", "checkpointing.min_seconds=9", "+callbacks.progress_bar.refresh_rate=3",
])  # fmt: skip
def test_job_key_is_independent_of_paths_workers_and_baselines(change) -> None:
    changed = config(change) if not change.startswith("+") else config()
    if change.startswith("+"):
        changed["callbacks"]["progress_bar"] = {"_target_": "a progress bar in a terminal"}
    assert identity.job_key(changed) == identity.job_key(config())


@pytest.mark.parametrize(
    "setting",
    ["reference_batch_size=64", "trainer.sync_batchnorm=true", "checkpointing.every_n_epochs=2"],
)
def test_settings_that_affect_the_result_are_part_of_the_identity(setting) -> None:
    assert identity.identity(config(setting)) != identity.identity(config())


def test_job_folder_ends_in_its_key() -> None:
    plain = config("seed=3")
    whole = OmegaConf.create({**plain, "hydra": {"subdir": "${model.name}-${tl_key:}"}})
    assert whole.hydra.subdir == f"dann-{identity.job_key(plain)}"


def test_job_is_finished_once_it_has_a_report_and_all_baselines(tmp_path) -> None:
    cfg = config()
    assert jobs.finished(tmp_path, cfg) is None
    jobs.begin(tmp_path, cfg, ["joint_bn"])
    assert jobs.finished(tmp_path, cfg) is None
    write_finished_job(tmp_path, cfg, baselines=["joint_bn"])
    assert jobs.finished(tmp_path, cfg)["name"] == "finished"
    assert jobs.wholly_finished(tmp_path, cfg) is None
    write_finished_job(tmp_path / "baselines" / "joint_bn", cfg)
    assert jobs.wholly_finished(tmp_path, cfg)["name"] == "finished"
    more = {**cfg, "baselines": ["oracle"]}  # with other baselines it is not finished
    assert jobs.wholly_finished(tmp_path, more) is None
    assert jobs.finished(tmp_path, more) is not None
    jobs.note_failure(tmp_path, "a baseline failed", ["seed=0"])
    jobs.failures.clear()
    assert jobs.wholly_finished(tmp_path, cfg) is None
    jobs.begin(tmp_path, cfg, ["joint_bn"])
    assert not (tmp_path / "failed.json").exists()


def test_truncated_report_or_missing_job_file_is_not_finished(tmp_path) -> None:
    write_finished_job(tmp_path, config())
    (tmp_path / "report.json").write_text('{"schema": 1, "kind"')
    assert jobs.finished(tmp_path, config()) is None
    write_finished_job(tmp_path, config())
    (tmp_path / "job.json").unlink()
    assert jobs.finished(tmp_path, config()) is None


def test_folder_of_a_different_job_is_rejected(tmp_path) -> None:
    write_finished_job(tmp_path, config("seed=1"))
    with pytest.raises(ConfigError, match=r"contains a different job .* set another hydra\.sweep"):
        jobs.finished(tmp_path, config("seed=2"))


def test_a_finished_job_is_not_skipped_if_its_data_have_changed(tmp_path, monkeypatch) -> None:
    class_folders(tmp_path / "images", 8)
    cfg = file_config(tmp_path / "images", "data=folder", "model=source_only")
    monkeypatch.setattr(data_version, "_known", {})
    job = tmp_path / "job"
    jobs.begin(job, cfg)
    now = data_version.current_fingerprint(check(cfg))
    report = {"schema": SCHEMA, "kind": "run", "dataset": {"fingerprint": now}}
    write_json(job / "report.json", report)
    assert jobs.finished(job, cfg) == report
    assert jobs.wholly_finished(job, cfg) == report
    next((tmp_path / "images").glob("*/*.jpg")).unlink()
    monkeypatch.setattr(data_version, "_known", {})
    with pytest.raises(ConfigError, match=r"job is finished, but was trained on other data: sam"):
        jobs.wholly_finished(job, cfg)
    jobs.note_failure(job, "other data", [])
    assert jobs.failures.pop() == "other data"
    assert not (job / "failed.json").exists()  # which would hide its results from the table
    shutil.rmtree(tmp_path / "images")
    monkeypatch.setattr(data_version, "_known", {})
    assert jobs.finished(job, cfg) == report


HOLD = """
import sys, time
from pathlib import Path
from tl_lightning.utils.files import run_lock
with run_lock(Path(sys.argv[1])) as acquired:
    print(acquired, flush=True)
    time.sleep(60)
"""


def test_run_lock_is_exclusive_and_released_on_kill(tmp_path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"True\n"
    with files.run_lock(tmp_path) as acquired:
        assert not acquired
    other.kill()
    other.wait()
    other.stdout.close()
    with files.run_lock(tmp_path) as acquired:
        assert acquired


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path, capsys) -> None:
    """Opening it for writing would empty the file that it points to."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    with files.run_lock(tmp_path / "run") as acquired:
        assert acquired
    message = r"cannot lock .*run \(.*\): start only one process at a time there"
    assert re.search(message, capsys.readouterr().out)
    (tmp_path / ".x.lock").symlink_to(precious)
    message = r"cannot write to .*; set data\.root="
    with pytest.raises(DataError, match=message), files.locked(tmp_path / "x"):
        pass
    assert precious.read_text() == "mine"


class FakeFit:
    """Fake ``fit``: raises the given exceptions in turn, or writes a report."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends, self.calls = list(ends), []

    def __call__(self, config, folder, baseline_of="") -> dict[str, Any]:
        self.calls.append((folder.name, config["resume"]))
        end = self.ends.pop(0) if self.ends else None
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").touch()
        if end:
            raise end
        report = {"schema": SCHEMA, "kind": "run", "name": folder.name}
        write_json(folder / "report.json", report)
        return report


def test_only_unfinished_parts_are_run_and_resumed(monkeypatch, tmp_path) -> None:
    """The model is finished and its baseline was interrupted: only the baseline is resumed."""
    fake_fit = FakeFit(None, KeyboardInterrupt())
    monkeypatch.setattr(baselines, "fit", fake_fit)
    cfg, folder = OmegaConf.create(config()), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        baselines.fit_with_baselines(cfg, folder, sweeping=True)
    assert baselines.fit_with_baselines(cfg, folder, sweeping=True)["name"] == "run"
    assert baselines.fit_with_baselines(cfg, folder, sweeping=True)["name"] == "run"
    assert fake_fit.calls == [("run", "auto"), ("joint_bn", "auto"), ("joint_bn", "auto")]


def test_resume_path_is_used_until_the_job_has_its_own_checkpoint(monkeypatch, tmp_path):
    fake_fit = FakeFit(KeyboardInterrupt())
    monkeypatch.setattr(baselines, "fit", fake_fit)
    cfg, folder = OmegaConf.create(config("baselines=false", "resume=/a/run")), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        baselines.fit_with_baselines(cfg, folder, sweeping=True)
    baselines.fit_with_baselines(cfg, folder, sweeping=True)
    assert fake_fit.calls == [("run", "/a/run"), ("run", "auto")]


def test_job_of_another_process_is_skipped(monkeypatch, tmp_path, capsys) -> None:
    fake_fit = FakeFit()
    monkeypatch.setattr(baselines, "fit", fake_fit)
    with files.run_lock(tmp_path / "run"):
        report = baselines.fit_with_baselines(OmegaConf.create(config()), tmp_path / "run", True)
    assert (report, fake_fit.calls) == ({}, [])
    assert "skipped: another process is running this job: run" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_rank_0_of_a_skipped_job_exits_with_an_error(name, monkeypatch, tmp_path) -> None:
    """Only rank 0 checks the lock; its exit code makes the launcher terminate the others."""
    fake_fit = FakeFit()
    monkeypatch.setattr(baselines, "fit", fake_fit)
    monkeypatch.setenv(name, "0")
    two = OmegaConf.create(config("trainer.devices=2", "baselines=[]"))
    with files.run_lock(tmp_path / "run"), pytest.raises(SystemExit) as end:
        baselines.fit_with_baselines(two, tmp_path / "run", True)
    assert end.value.code == 143
    assert fake_fit.calls == []


@pytest.fixture
def launched(monkeypatch):
    """Return a function that computes the run id with given environment variables."""

    def launch(**variables: str) -> str:
        for name in ("TL_RUN_ID", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        result = run_id.run_id()
        assert os.environ["TL_RUN_ID"] == result, "child processes would get another id"
        return result

    yield launch
    monkeypatch.setenv("TL_RUN_ID", "")


def test_all_ranks_have_the_same_run_id(launched) -> None:
    slurm = launched(SLURM_JOB_ID="17")
    assert slurm.startswith("17-")
    assert launched(SLURM_JOB_ID="17") == slurm
    assert launched(TL_RUN_ID="mine", SLURM_JOB_ID="17") == "mine"
    assert launched(TORCHELASTIC_RUN_ID="given") == "given"
    local = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    assert launched(**local) == launched(**local)
    assert launched(**local).startswith(f"torchrun-{os.getppid()}-")
    with pytest.raises(ConfigError, match=r"run torchrun --rdzv-id=<name>"):
        launched(**{**local, "WORLD_SIZE": "4"})


def test_two_commands_of_one_slurm_job_have_different_run_ids(launched, monkeypatch) -> None:
    """Otherwise the second would overwrite the run of the first."""
    ids = set()
    for arguments in (["seed=0"], ["seed=1"], ["seed=0"]):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        ids.add(launched(SLURM_JOB_ID="17"))
    assert len(ids) == 2


def test_swept_models_are_known_in_processes_of_a_launcher(monkeypatch) -> None:
    monkeypatch.delenv("TL_SWEPT_MODELS", raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "model=source_only,dann"])
    assert jobs.swept_models() == ["source_only", "dann"]
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "model=dann"])
    monkeypatch.setenv("TL_SWEPT_MODELS", "source_only,dann")
    assert jobs.swept_models() == ["source_only", "dann"]


def test_failures_are_recorded_and_counted(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "failures", [])
    jobs.note_failure(tmp_path, "too small", ["seed=0"])
    record = json.loads((tmp_path / "failed.json").read_text())
    assert record == {"error": "too small", "overrides": ["seed=0"]}
    assert jobs.failures == ["too small"]
