"""Launchers: sweep jobs in local processes and SLURM job arrays."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import config
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.schema import SCHEMA
from tl_lightning.sweeps import jobs
from tl_lightning.sweeps.launchers import local, slurm
from tl_lightning.sweeps.launchers.local import Job, left_to_do, run_local, shares
from tl_lightning.sweeps.launchers.slurm import run_slurm
from tl_lightning.utils.files import write_json

SLURM: dict[str, Any] = {
    "partition": "debug", "account": None, "qos": None, "constraint": None, "time": "0:10:00",
    "nodes": 1, "tasks_per_node": 1, "gpus_per_node": None, "cpus_per_task": 1, "mem": None,
    "at_once": 4, "max_requeues": 3, "warn_s": 60, "setup": ["module load cuda"],
    "options": ["--exclude=node7"], "wait": True, "poll_s": 0.01,
}  # fmt: skip


@pytest.fixture(autouse=True)
def isolated(monkeypatch):
    monkeypatch.setattr(jobs, "failures", [])
    monkeypatch.setattr(local, "failures", jobs.failures)
    monkeypatch.setenv("TL_RUN_ID", "command")
    monkeypatch.setenv("TL_SWEPT_MODELS", "dann")


def job(folder: Path, *overrides: str) -> Job:
    return Job(folder, ["model=dann", *overrides], [], config(*overrides))


def write_report(finished: Job) -> None:
    jobs.begin(finished.folder, finished.config)
    write_json(finished.folder / "report.json", {
        "schema": SCHEMA, "kind": "run", "metrics": {"target/test/acc": 0.5},
        "selection": {"value": 1.0},
    })  # fmt: skip


def test_command_of_a_job_is_a_sweep_of_one_job_in_the_same_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "-cn", "other", "--config-dir=/conf"])
    hydra = [
        "hydra/launcher=slurm",
        "hydra.launcher.time=10",
        "hydra.sweep.dir=x",
        "hydra.sweep.subdir=${hydra.job.num}",
        "hydra.verbose=1",
    ]
    command = Job(tmp_path / "sweep" / "a", ["seed=1"], hydra, {}).command
    assert command[:4] == [sys.executable, "-m", "tl_lightning", "--multirun"]
    assert command[4:] == [
        "-cn", "other", "--config-dir=/conf", "seed=1", "hydra.verbose=1",
        f"hydra.sweep.dir='{tmp_path}/sweep'", "hydra.sweep.subdir='a'", "hydra/launcher=basic",
    ]  # fmt: skip


def test_finished_and_duplicate_jobs_are_skipped(tmp_path, capsys) -> None:
    old, new = job(tmp_path / "old"), job(tmp_path / "new", "seed=1")
    write_report(old)
    assert left_to_do([old, new, new]) == [new]
    assert capsys.readouterr().out == "already finished: old\nduplicate job skipped: new\n"


@pytest.mark.parametrize(("gpus", "jobs", "expected"), [
    ([], 2, ["", ""]), ([0, 1], 1, ["0,1"]), ([0, 1, 2], 2, ["0", "1"]),
    (range(8), 8, [str(n) for n in range(8)]), (["GPU-a", "GPU-b"], 2, ["GPU-a", "GPU-b"]),
])  # fmt: skip
def test_gpus_are_divided_among_jobs(gpus, jobs, expected) -> None:
    assert shares(gpus, jobs) == expected


@pytest.mark.parametrize(("code", "status", "failures"), [
    (143, "interrupted; resumes when the sweep is started again", 1),
    (-9, "failed: the job's process exited with code -9 and no error message; see log", 1),
    (0, "no report was written; see log", 0),
])  # fmt: skip
def test_status_of_a_process_without_report(code, status, failures, tmp_path) -> None:
    assert job(tmp_path).ended(code, Path("log")) == status
    assert len(jobs.failures) == failures
    assert (tmp_path / "failed.json").exists() == (code == -9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_termination_signals_are_passed_on_to_jobs(number, tmp_path, capfd) -> None:
    before = signal.getsignal(number)
    process = subprocess.Popen(["sleep", "60"])
    with (
        pytest.raises(SystemExit) as end,
        local._stopping({0: (job(tmp_path), process, Path("log"))}),
    ):
        os.kill(os.getpid(), number)
    assert end.value.code == 143
    assert process.returncode == -signal.SIGTERM
    assert "interrupted; resumes" in capfd.readouterr().out
    assert signal.getsignal(number) == before


def test_status_of_a_process_with_report(tmp_path) -> None:
    finished = job(tmp_path)
    write_report(finished)
    assert finished.ended(0, Path("log")) == "finished, target 50.0 %"
    jobs.note_failure(tmp_path, "too small", [])
    assert finished.ended(1, Path("log")) == "failed: too small"


def test_parallel_jobs_run_at_the_same_time_each_on_its_gpu(monkeypatch, tmp_path) -> None:
    """Real processes, each of which waits until the other has started."""
    code = (
        "import os, pathlib, time, sys; own = pathlib.Path(sys.argv[1]); own.mkdir(exist_ok=True)\n"
        "names = ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'TL_PART_OF_SWEEP', 'TL_RUN_ID')\n"
        "(own / 'started').write_text(' '.join(os.environ[n] for n in names))\n"
        "while len(list(own.parent.glob('*/started'))) < 2: time.sleep(0.01)\n"
    )
    jobs = [job(tmp_path / name, f"seed={n}") for n, name in enumerate("ab")]
    monkeypatch.setattr(
        Job, "command", property(lambda self: [sys.executable, "-c", code, str(self.folder)])
    )
    run_local(jobs, parallel=2, gpus=[4, 5], threads=3)
    started = sorted((job.folder / "started").read_text() for job in jobs)
    assert started == ["4 3 1 command", "5 3 1 command"]


def test_invalid_number_of_parallel_jobs_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"parallel=0 must be a positive .* set hydra\.launcher"):
        run_local([], parallel=0, gpus="auto", threads=None)


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(stat.S_IRWXU)


@pytest.fixture
def fake(monkeypatch, tmp_path) -> Path:
    """Fake SLURM commands that run jobs immediately: sbatch, srun, squeue, scontrol."""
    folder = tmp_path / "bin"
    folder.mkdir()
    # Runs one task after the other, with the variables that SLURM sets.
    program(folder, "sbatch", (
        f'cp "$2" {tmp_path}/script\n'
        'for n in $(sed -n "s/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p" "$2" | xargs seq 0); do\n'
        '  SLURM_JOB_ID=1$n SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$n bash "$2" >&2\n'
        "done; echo 7"
    ))  # fmt: skip
    program(folder, "srun", f'shift; printf "%s\\n" "$*" >> {tmp_path}/ran; exit ${{FAKE_CODE:-0}}')
    program(folder, "squeue", "exit 0")
    program(folder, "scontrol", f'echo "$*" >> {tmp_path}/scontrol; echo "$FAKE_STATE"')
    program(folder, "module", "exit 0")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path


def test_array_runs_each_job_once_with_its_own_command(fake, capsys) -> None:
    jobs = [
        job(fake / "sweep" / name, f"seed={n}", "method=[dann,mcc]") for n, name in enumerate("ab")
    ]
    run_slurm(jobs, **SLURM)
    text = (fake / "script").read_text()
    for option in ("partition=debug", "time=0:10:00", "array=0-1%4", "signal=B:USR1@60", "requeue",
                   "ntasks-per-node=1", "exclude=node7"):  # fmt: skip
        assert f"#SBATCH --{option}\n" in text
    assert "account" not in text
    assert "gpus" not in text
    ran = (fake / "ran").read_text().splitlines()
    assert ran == [" ".join(job.command) for job in jobs]
    out = capsys.readouterr().out
    assert "array 7 of 2 job(s) submitted" in out
    assert out.count("no report was written") == 2


def test_script_is_valid_bash(fake) -> None:
    run_slurm([job(fake / "a sweep's" / "a", "seed=1")], **SLURM)
    assert subprocess.run(["bash", "-n", fake / "script"], check=False).returncode == 0


@pytest.mark.parametrize(("code", "state", "requeued"), [
    ("143", "JobState=RUNNING\n PreemptTime=2026-11-21T16:48:41", True),
    ("143", "JobState=RUNNING\n PreemptTime=None", False),   # cancelled by a user
    ("143", "JobState=CANCELLED\n PreemptTime=2026-11-21T16:48:41", False),
    ("0", "JobState=RUNNING\n PreemptTime=2026-11-21T16:48:41", False),   # finished in time
])  # fmt: skip
def test_only_preempted_jobs_are_requeued(code, state, requeued, fake, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_CODE", code)
    monkeypatch.setenv("FAKE_STATE", state)
    run_slurm([job(fake / "sweep" / "a")], **SLURM)
    calls = (fake / "scontrol").read_text().splitlines()
    assert ("requeue 7_0" in calls) == requeued


def test_number_of_requeues_is_limited(fake, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_CODE", "143")
    monkeypatch.setenv("FAKE_STATE", "JobState=RUNNING PreemptTime=2026")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    monkeypatch.setattr(slurm, "_submit", lambda file: subprocess.run(
        ["bash", str(file)], check=False,
        env={"PATH": f"{fake}/bin:/usr/bin:/bin", "SLURM_RESTART_COUNT": "3", "FAKE_CODE": "143",
             "FAKE_STATE": "JobState=RUNNING PreemptTime=2026", "SLURM_JOB_ID": "1",
             "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"},
    ) and "7")  # fmt: skip
    run_slurm([job(fake / "sweep" / "a")], **SLURM)
    assert "requeue 7_0" not in (fake / "scontrol").read_text()


def test_failure_without_error_message_is_recorded_with_its_log(fake, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_CODE", "9")
    failing = job(fake / "sweep" / "a")
    run_slurm([failing], **SLURM)
    error = json.loads((failing.folder / "failed.json").read_text())["error"]
    assert error.startswith("the job's process exited with code 9 and no error message; see ")
    assert error.endswith("/.slurm/command/7_0.log")


def test_nothing_is_submitted_if_all_jobs_are_finished(fake) -> None:
    finished = job(fake / "sweep" / "a")
    write_report(finished)
    run_slurm([finished], **SLURM)
    assert not (fake / "script").exists()


def test_report_command_is_printed_without_wait(fake, capsys) -> None:
    run_slurm([job(fake / "sweep" / "a")], **{**SLURM, "wait": False})
    assert f"after the last job, run tl-report sweep={fake}/sweep" in capsys.readouterr().out


@pytest.mark.parametrize(("override", "tasks", "message"), [
    ("trainer.devices=2", 1, r"1 task\(s\) per node on 1 node\(s\), but a has trainer\.devices=2"),
    ("trainer.num_nodes=2", 1, r"but a has trainer\.num_nodes=2; use one value, trainer\.num_n"),
    ("trainer.devices=auto", "auto", r"but a has trainer\.devices=auto; use one value"),
])  # fmt: skip
def test_devices_must_equal_the_tasks_of_the_array(override, tasks, message, fake) -> None:
    with pytest.raises(ConfigError, match=message):
        run_slurm([job(fake / "a", override)], **{**SLURM, "tasks_per_node": tasks})
    assert not (fake / "script").exists()


def test_missing_sbatch_and_sbatch_errors_are_reported(fake, monkeypatch) -> None:
    program(fake / "bin", "sbatch", "echo 'invalid partition' >&2; exit 1")
    with pytest.raises(ConfigError, match=r"sbatch rejected .*: invalid partition; set hydra\.lau"):
        run_slurm([job(fake / "sweep" / "a")], **SLURM)
    monkeypatch.setenv("PATH", str(fake))
    with pytest.raises(ConfigError, match=r"not found on this machine; .* set hydra/launcher=loc"):
        run_slurm([job(fake / "sweep" / "a")], **SLURM)
