"""The jobs of a sweep in processes of their own."""

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
from tl_lightning.sweeps.launchers.local import Job, left_to_do, run_here, shares
from tl_lightning.sweeps.launchers.slurm import run_there
from tl_lightning.utils.files import write_json

SLURM: dict[str, Any] = {
    "partition": "debug", "account": None, "qos": None, "constraint": None, "time": "0:10:00",
    "nodes": 1, "tasks_per_node": 1, "gpus_per_node": None, "cpus_per_task": 1, "mem": None,
    "at_once": 4, "max_requeues": 3, "warn_s": 60, "setup": ["module load cuda"],
    "options": ["--exclude=node7"], "wait": True, "poll_s": 0.01,
}  # fmt: skip


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    monkeypatch.setattr(jobs, "failures", [])
    monkeypatch.setattr(local, "failures", jobs.failures)
    monkeypatch.setenv("TL_RUN_ID", "command")
    monkeypatch.setenv("TL_SWEPT_MODELS", "dann")


def job(folder: Path, *overrides: str) -> Job:
    return Job(folder, ["model=dann", *overrides], [], config(*overrides))


def leave_report(one: Job) -> None:
    jobs.begin(one.folder, one.config)
    write_json(one.folder / "report.json", {
        "schema": SCHEMA, "kind": "run", "metrics": {"target/test/acc": 0.5},
        "selection": {"value": 1.0},
    })  # fmt: skip


def test_a_job_is_a_sweep_of_one_in_the_same_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "-cn", "other", "--config-dir=/conf"])
    typed = [
        "hydra/launcher=slurm",
        "hydra.launcher.time=10",
        "hydra.sweep.dir=x",
        "hydra.sweep.subdir=${hydra.job.num}",
        "hydra.verbose=1",
    ]
    command = Job(tmp_path / "sweep" / "a", ["seed=1"], typed, {}).command
    assert command[:4] == [sys.executable, "-m", "tl_lightning", "--multirun"]
    assert command[4:] == [
        "-cn", "other", "--config-dir=/conf", "seed=1", "hydra.verbose=1",
        f"hydra.sweep.dir='{tmp_path}/sweep'", "hydra.sweep.subdir='a'", "hydra/launcher=basic",
    ]  # fmt: skip


def test_what_is_done_is_not_started_and_nothing_twice(tmp_path, capsys) -> None:
    done, new = job(tmp_path / "done"), job(tmp_path / "new", "seed=1")
    leave_report(done)
    assert left_to_do([done, new, new]) == [new]
    assert capsys.readouterr().out == "done before: done\nasked for twice: new\n"


@pytest.mark.parametrize(("gpus", "jobs", "found"), [
    ([], 2, ["", ""]), ([0, 1], 1, ["0,1"]), ([0, 1, 2], 2, ["0", "1"]),
    (range(8), 8, [str(n) for n in range(8)]), (["GPU-a", "GPU-b"], 2, ["GPU-a", "GPU-b"]),
])  # fmt: skip
def test_gpus_are_dealt_out(gpus, jobs, found) -> None:
    assert shares(gpus, jobs) == found


@pytest.mark.parametrize(("code", "words", "counted"), [
    (143, "interrupted; goes on when the sweep is started again", 1),
    (-9, "failed: the job's process ended with code -9 without a word; see log", 1),
    (0, "nothing to show; see log", 0),
])  # fmt: skip
def test_what_became_of_a_process_that_left_nothing(code, words, counted, tmp_path) -> None:
    assert job(tmp_path).ended(code, Path("log")) == words
    assert len(jobs.failures) == counted
    assert (tmp_path / "failed.json").exists() == (code == -9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_tells_the_command_to_stop_tells_its_jobs(number, tmp_path, capfd) -> None:
    before = signal.getsignal(number)
    process = subprocess.Popen(["sleep", "60"])
    with (
        pytest.raises(SystemExit) as end,
        local._stopping({0: (job(tmp_path), process, Path("log"))}),
    ):
        os.kill(os.getpid(), number)
    assert end.value.code == 143
    assert process.returncode == -signal.SIGTERM
    assert "interrupted; goes on" in capfd.readouterr().out
    assert signal.getsignal(number) == before


def test_what_became_of_one_that_left_word(tmp_path) -> None:
    one = job(tmp_path)
    leave_report(one)
    assert one.ended(0, Path("log")) == "finished, target 50.0 %"
    jobs.note_failure(tmp_path, "too small", [])
    assert one.ended(1, Path("log")) == "failed: too small"


def test_so_many_jobs_run_at_a_time_each_on_its_gpu(monkeypatch, tmp_path) -> None:
    """Real processes: each waits until it sees the other, or for ever."""
    code = (
        "import os, pathlib, time, sys; me = pathlib.Path(sys.argv[1]); me.mkdir(exist_ok=True)\n"
        "names = ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'TL_PART_OF_SWEEP', 'TL_RUN_ID')\n"
        "(me / 'began').write_text(' '.join(os.environ[n] for n in names))\n"
        "while len(list(me.parent.glob('*/began'))) < 2: time.sleep(0.01)\n"
    )
    jobs = [job(tmp_path / name, f"seed={n}") for n, name in enumerate("ab")]
    monkeypatch.setattr(
        Job, "command", property(lambda one: [sys.executable, "-c", code, str(one.folder)])
    )
    run_here(jobs, parallel=2, gpus=[4, 5], threads=3)
    noted = sorted((one.folder / "began").read_text() for one in jobs)
    assert noted == ["4 3 1 command", "5 3 1 command"]


def test_no_number_of_jobs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"parallel=0 is no number .* type hydra\.launcher\.par"):
        run_here([], parallel=0, gpus="auto", threads=None)


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(stat.S_IRWXU)


@pytest.fixture
def fake(monkeypatch, tmp_path) -> Path:
    """Stand for a cluster that runs what it is given at once: sbatch, srun, squeue, scontrol."""
    place = tmp_path / "bin"
    place.mkdir()
    # It runs task after task, each as SLURM would, with srun standing before the command.
    program(place, "sbatch", (
        f'cp "$2" {tmp_path}/script\n'
        'for n in $(sed -n "s/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p" "$2" | xargs seq 0); do\n'
        '  SLURM_JOB_ID=1$n SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$n bash "$2" >&2\n'
        "done; echo 7"
    ))  # fmt: skip
    program(place, "srun", f'shift; printf "%s\\n" "$*" >> {tmp_path}/ran; exit ${{FAKE_CODE:-0}}')
    program(place, "squeue", "exit 0")
    program(place, "scontrol", f'echo "$*" >> {tmp_path}/asked; echo "$FAKE_STATE"')
    program(place, "module", "exit 0")
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    return tmp_path


def test_an_array_runs_each_job_once_under_its_own_words(fake, capsys) -> None:
    jobs = [
        job(fake / "sweep" / name, f"seed={n}", "adapter=[dann,mcc]") for n, name in enumerate("ab")
    ]
    run_there(jobs, **SLURM)
    text = (fake / "script").read_text()
    for option in ("partition=debug", "time=0:10:00", "array=0-1%4", "signal=B:USR1@60", "requeue",
                   "ntasks-per-node=1", "exclude=node7"):  # fmt: skip
        assert f"#SBATCH --{option}\n" in text
    assert "account" not in text
    assert "gpus" not in text
    ran = (fake / "ran").read_text().splitlines()
    assert ran == [" ".join(one.command) for one in jobs]
    out = capsys.readouterr().out
    assert "array 7 of 2 job(s) submitted" in out
    assert out.count("nothing to show") == 2


def test_the_script_is_bash(fake) -> None:
    run_there([job(fake / "a sweep's" / "a", "seed=1")], **SLURM)
    assert subprocess.run(["bash", "-n", fake / "script"], check=False).returncode == 0


@pytest.mark.parametrize(("code", "state", "again"), [
    ("143", "JobState=RUNNING\n PreemptTime=2026-11-21T16:48:41", True),
    ("143", "JobState=RUNNING\n PreemptTime=None", False),   # somebody's scancel
    ("143", "JobState=CANCELLED\n PreemptTime=2026-11-21T16:48:41", False),
    ("0", "JobState=RUNNING\n PreemptTime=2026-11-21T16:48:41", False),   # done all the same
])  # fmt: skip
def test_only_what_gave_way_queues_again(code, state, again, fake, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_CODE", code)
    monkeypatch.setenv("FAKE_STATE", state)
    run_there([job(fake / "sweep" / "a")], **SLURM)
    asked = (fake / "asked").read_text().splitlines()
    assert ("requeue 7_0" in asked) == again


def test_not_for_ever(fake, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_CODE", "143")
    monkeypatch.setenv("FAKE_STATE", "JobState=RUNNING PreemptTime=2026")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    monkeypatch.setattr(slurm, "_submit", lambda file: subprocess.run(
        ["bash", str(file)], check=False,
        env={"PATH": f"{fake}/bin:/usr/bin:/bin", "SLURM_RESTART_COUNT": "3", "FAKE_CODE": "143",
             "FAKE_STATE": "JobState=RUNNING PreemptTime=2026", "SLURM_JOB_ID": "1",
             "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"},
    ) and "7")  # fmt: skip
    run_there([job(fake / "sweep" / "a")], **SLURM)
    assert "requeue 7_0" not in (fake / "asked").read_text()


def test_a_job_that_fails_without_a_word_is_noted_with_its_log(fake, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_CODE", "9")
    one = job(fake / "sweep" / "a")
    run_there([one], **SLURM)
    noted = json.loads((one.folder / "failed.json").read_text())["error"]
    assert noted.startswith("the job's process ended with code 9 without a word; see ")
    assert noted.endswith("/.slurm/command/7_0.log")


def test_nothing_to_do_submits_nothing(fake) -> None:
    one = job(fake / "sweep" / "a")
    leave_report(one)
    run_there([one], **SLURM)
    assert not (fake / "script").exists()


def test_without_waiting_it_says_how_to_see_the_table(fake, capsys) -> None:
    run_there([job(fake / "sweep" / "a")], **{**SLURM, "wait": False})
    assert f"when it is done: tl-report sweep={fake}/sweep" in capsys.readouterr().out


@pytest.mark.parametrize(("override", "tasks", "said"), [
    ("trainer.devices=2", 1, r"1 task\(s\) a node on 1 node\(s\), but a has trainer\.devices=2"),
    ("trainer.num_nodes=2", 1, r"but a has trainer\.num_nodes=2; type one number, trainer\.num_n"),
    ("trainer.devices=auto", "auto", r"but a has trainer\.devices=auto; type one number"),
])  # fmt: skip
def test_devices_that_the_array_cannot_see_are_refused(override, tasks, said, fake) -> None:
    with pytest.raises(ConfigError, match=said):
        run_there([job(fake / "a", override)], **{**SLURM, "tasks_per_node": tasks})
    assert not (fake / "script").exists()


def test_no_slurm_and_a_slurm_that_refuses_are_a_sentence(fake, monkeypatch) -> None:
    program(fake / "bin", "sbatch", "echo 'invalid partition' >&2; exit 1")
    with pytest.raises(ConfigError, match=r"sbatch refused .*: invalid partition; set hydra\.laun"):
        run_there([job(fake / "sweep" / "a")], **SLURM)
    monkeypatch.setenv("PATH", str(fake))
    with pytest.raises(ConfigError, match=r"not on this machine; .* type hydra/launcher=local"):
        run_there([job(fake / "sweep" / "a")], **SLURM)
