"""Sweeps that are killed, resumed, extended and distributed over processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import REPO, TINY
from helpers import command, same, weights

RANKS = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=40"]


def sweep(*more: str) -> list[str]:
    """Return the arguments of a sweep that can be resumed by running it again."""
    return ["-m", *TINY, *RANKS, "hydra.sweep.dir=sweep", *more]


def kill_when(ready, arguments: list[str], cwd: Path) -> None:
    """Start train.py and kill its process group once ``ready()`` is true."""
    process = subprocess.Popen(
        [sys.executable, str(REPO / "scripts" / "train.py"), *arguments],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 500
    try:
        while not ready():
            assert process.poll() is None, "it exited before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_killed_sweep_with_two_ranks_per_job_is_resumed_exactly(tmp_path) -> None:
    """Four jobs: two have finished, one is killed while training, one has not started."""
    arguments = sweep("model=dann,mmd", "seed=0,1")
    root = tmp_path / "sweep"

    def third_has_epochs() -> bool:
        return any(root.glob("mmd-digits-seed0-*/checkpoints/last.ckpt"))

    kill_when(third_has_epochs, arguments, tmp_path)
    before = {path.parent.name: path.stat().st_mtime_ns for path in root.glob("*/report.json")}
    assert {name.rsplit("-", 1)[0] for name in before} == {"dann-digits-seed0", "dann-digits-seed1"}
    killed = next(root.glob("mmd-digits-seed0-*"))
    epochs = torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 1
    assert epochs < 40

    again = command("train", arguments, tmp_path, timeout=500)
    assert again.returncode == 0, again.stderr
    done = [line for line in again.stdout.splitlines() if line.startswith("already finished")]
    assert sorted(done) == [f"already finished: {name}" for name in sorted(before)]
    assert again.stdout.count("epoch 1/40") == 1  # of the job that had not started
    assert again.stdout.count("epoch 40/40") == 2
    reports = {path.parent.name: path.stat().st_mtime_ns for path in root.rglob("report.json")}
    assert len(reports) == len([path for path in root.iterdir() if path.is_dir()]) == 4
    assert before.items() <= reports.items()
    assert len(json.loads((root / "sweep.json").read_text())["rows"]) == 2

    third = command("train", arguments, tmp_path, timeout=500)
    assert third.returncode == 0, third.stderr
    assert third.stdout.count("already finished") == 4
    assert "epoch" not in "".join(x for x in third.stdout.splitlines() if x.startswith("epoch"))
    assert reports == {p.parent.name: p.stat().st_mtime_ns for p in root.rglob("report.json")}

    alone = [*TINY, *RANKS, "model=mmd", "seed=0", "hydra.run.dir=alone"]
    done = command("train", alone, tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr
    whole, resumed = (weights(folder / "checkpoints" / "last.ckpt")
                      for folder in (tmp_path / "alone", killed))  # fmt: skip
    assert same(whole, resumed)


@pytest.mark.long
def test_torchrun_without_rdzv_id_writes_one_run_folder(tmp_path) -> None:
    arguments = ["--nproc-per-node=2", str(REPO / "scripts" / "train.py"), *TINY,
                 "model=source_only", "trainer=ddp", "trainer.devices=2",
                 "trainer.accelerator=cpu"]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "TL_RUN_ID"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments], cwd=tmp_path, check=False,
        env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "source_only-digits").iterdir()
    report = json.loads((run / "report.json").read_text())
    alone = command(
        "train", [*TINY, "model=source_only", "trainer=ddp", "trainer.devices=2",
                  "trainer.accelerator=cpu", "hydra.run.dir=alone"], tmp_path, timeout=500,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    other = json.loads((tmp_path / "alone" / "report.json").read_text())
    assert report["metrics"] == other["metrics"]  # same as with ranks started by the Trainer
    assert same(*(weights(folder / "checkpoints" / "last.ckpt")
                  for folder in (run, tmp_path / "alone")))  # fmt: skip


@pytest.mark.long
def test_extended_sweep_runs_new_and_failed_jobs_only(tmp_path) -> None:
    """Jobs are not identified by number; baselines of finished jobs are not run again either."""
    common = ["-m", *TINY, "hydra.sweep.dir=sweep", "model=dann"]
    first = command("train", [*common, "data.batch_size=16,9999"], tmp_path)
    assert first.returncode == 1
    assert "1 job(s) of the sweep did not finish" in first.stderr
    root = tmp_path / "sweep"
    (kept,) = root.glob("*/report.json")
    (failed,) = root.glob("*/failed.json")
    assert "data.batch_size=9999" in json.loads(failed.read_text())["overrides"]
    assert (kept.parent / "baselines" / "joint_bn" / "report.json").is_file()
    mtime = kept.stat().st_mtime_ns
    again = command("train", [*common, "data.batch_size=9999,8,16"], tmp_path)
    assert again.returncode == 1
    assert f"already finished: {kept.parent.name}" in again.stdout
    assert again.stdout.count("epoch 2/2") == 2  # the new job and its baseline
    assert kept.stat().st_mtime_ns == mtime
    assert len(list(root.glob("*/failed.json"))) == 1
    assert len(list(root.glob("*/report.json"))) == 2


@pytest.mark.long
def test_traceback_of_a_crashed_job_is_printed_and_the_table_written(tmp_path) -> None:
    """An unexpected exception, raised by a custom class."""
    (tmp_path / "custom.py").write_text(
        "from torch.nn import Module\n"
        "class Broken(Module):\n"
        "    def __init__(self, **params: object) -> None:\n"
        "        raise ZeroDivisionError('a bug')\n"
    )
    done = command(
        "train",
        ["-m", *TINY, "model=source_only", "allow=[custom]", "hydra.sweep.dir=sweep",
         "head._target_=tl_lightning.tasks.head.Head,custom.Broken"],
        tmp_path, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    records = [json.loads(p.read_text()) for p in (tmp_path / "sweep").glob("*/failed.json")]
    assert any(record["error"] == "ZeroDivisionError: a bug" for record in records)
    assert (tmp_path / "sweep" / "table.md").is_file()


@pytest.mark.long
def test_local_launcher_runs_jobs_in_parallel_and_prints_their_status(tmp_path) -> None:
    arguments = ["-m", *TINY, "hydra/launcher=local", "hydra.sweep.dir=sweep",
                 "model=source_only,dann", "data.batch_size=16,9999"]  # fmt: skip
    done = command("train", arguments, tmp_path)
    assert done.returncode == 1, done.stdout
    lines = done.stdout.splitlines()
    started = [number for number, line in enumerate(lines) if ": started, see" in line]
    ended = [number for number, line in enumerate(lines) if ": f" in line and "digits" in line]
    assert started[1] < ended[0], "jobs did not run in parallel"
    assert sum("failed: data" in line or "failed: source" in line for line in lines) == 2
    assert "2 job(s) of the sweep did not finish" in done.stderr
    names = sorted(path.parent.name for path in (tmp_path / "sweep").rglob("report.json"))
    # joint_bn is trained as a baseline; source_only is not, since the sweep contains it.
    assert [name.split("-")[0] for name in names] == ["dann", "joint_bn", "source_only"]
    again = command("train", arguments, tmp_path)
    assert again.stdout.count("already finished") == 2


@pytest.mark.long
def test_local_launcher_lets_jobs_save_when_it_is_terminated(tmp_path) -> None:
    arguments = ["-m", *TINY, "hydra/launcher=local", "hydra.sweep.dir=sweep", "baselines=false",
                 "model=dann", "trainer.max_epochs=400"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(REPO / "scripts" / "train.py"), *arguments], cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not any(tmp_path.glob("sweep/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "interrupted; resumes when the sweep is started again" in output
    assert not list(tmp_path.glob("sweep/*/failed.json"))
