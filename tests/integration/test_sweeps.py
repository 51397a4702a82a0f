"""A sweep that is cut, started again, spread over processes."""

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
    """Return the words of a sweep that, started again, is the same sweep."""
    return ["-m", *TINY, *RANKS, "hydra.sweep.dir=sweep", *more]


def cut_when(ready, arguments: list[str], cwd: Path) -> None:
    """Start train.py and kill it and all that it started once ``ready`` says so."""
    process = subprocess.Popen(
        [sys.executable, str(REPO / "scripts" / "train.py"), *arguments],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 500
    try:
        while not ready():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_killed_sweep_of_two_ranks_a_job_goes_on_and_ends_like_one_that_was_not(tmp_path) -> None:
    """Four jobs, none doubled; two are done, one is cut in mid-run, one has not begun."""
    arguments = sweep("model=dann,mmd", "seed=0,1")
    root = tmp_path / "sweep"

    def third_has_epochs() -> bool:
        return any(root.glob("mmd-digits-seed0-*/checkpoints/last.ckpt"))

    cut_when(third_has_epochs, arguments, tmp_path)
    before = {path.parent.name: path.stat().st_mtime_ns for path in root.glob("*/report.json")}
    assert {name.rsplit("-", 1)[0] for name in before} == {"dann-digits-seed0", "dann-digits-seed1"}
    cut = next(root.glob("mmd-digits-seed0-*"))
    epochs = torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 1
    assert epochs < 40

    again = command("train", arguments, tmp_path, timeout=500)
    assert again.returncode == 0, again.stderr
    done = [line for line in again.stdout.splitlines() if line.startswith("done before")]
    assert sorted(done) == [f"done before: {name}" for name in sorted(before)]
    assert again.stdout.count("epoch 1/40") == 1  # of the job that had not begun
    assert again.stdout.count("epoch 40/40") == 2
    reports = {path.parent.name: path.stat().st_mtime_ns for path in root.rglob("report.json")}
    assert len(reports) == len([path for path in root.iterdir() if path.is_dir()]) == 4
    assert before.items() <= reports.items()
    assert len(json.loads((root / "sweep.json").read_text())["rows"]) == 2

    third = command("train", arguments, tmp_path, timeout=500)
    assert third.returncode == 0, third.stderr
    assert third.stdout.count("done before") == 4
    assert "epoch" not in "".join(x for x in third.stdout.splitlines() if x.startswith("epoch"))
    assert reports == {p.parent.name: p.stat().st_mtime_ns for p in root.rglob("report.json")}

    alone = [*TINY, *RANKS, "model=mmd", "seed=0", "hydra.run.dir=alone"]
    done = command("train", alone, tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr
    whole, resumed = (weights(place / "checkpoints" / "last.ckpt")
                      for place in (tmp_path / "alone", cut))  # fmt: skip
    assert same(whole, resumed)


@pytest.mark.long
def test_torchrun_without_an_id_makes_one_folder_of_agreeing_ranks(tmp_path) -> None:
    words = ["--nproc-per-node=2", str(REPO / "scripts" / "train.py"), *TINY, "model=source_only",
             "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "TL_RUN_ID"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words], cwd=tmp_path, check=False,
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
    assert report["metrics"] == other["metrics"]  # as by ranks that the Trainer starts
    assert same(*(weights(place / "checkpoints" / "last.ckpt")
                  for place in (run, tmp_path / "alone")))  # fmt: skip


@pytest.mark.long
def test_a_longer_grid_adds_to_the_folder_and_a_failed_job_is_tried_again(tmp_path) -> None:
    """Not by its number, which has changed; the bracket's runs of a done job are left, too."""
    common = ["-m", *TINY, "hydra.sweep.dir=sweep", "model=dann"]
    first = command("train", [*common, "data.batch_size=16,9999"], tmp_path)
    assert first.returncode == 1
    assert "1 job(s) of the sweep did not finish" in first.stderr
    root = tmp_path / "sweep"
    (kept,) = root.glob("*/report.json")
    (failed,) = root.glob("*/failed.json")
    assert "data.batch_size=9999" in json.loads(failed.read_text())["overrides"]
    assert (kept.parent / "bracket" / "joint_bn" / "report.json").is_file()
    made = kept.stat().st_mtime_ns
    again = command("train", [*common, "data.batch_size=9999,8,16"], tmp_path)
    assert again.returncode == 1
    assert f"done before: {kept.parent.name}" in again.stdout
    assert again.stdout.count("epoch 2/2") == 2  # the new job and its baseline
    assert kept.stat().st_mtime_ns == made
    assert len(list(root.glob("*/failed.json"))) == 1
    assert len(list(root.glob("*/report.json"))) == 2


@pytest.mark.long
def test_a_crash_of_one_job_keeps_its_traceback_and_the_sweep_its_table(tmp_path) -> None:
    """A defect of ours or of a class of the user's, not a fault that has its sentence."""
    (tmp_path / "mine.py").write_text(
        "from torch.nn import Module\n"
        "class Broken(Module):\n"
        "    def __init__(self, **knobs: object) -> None:\n"
        "        raise ZeroDivisionError('a defect')\n"
    )
    done = command(
        "train",
        ["-m", *TINY, "model=source_only", "allow=[mine]", "hydra.sweep.dir=sweep",
         "head._target_=tl_lightning.tasks.Linear,mine.Broken"],
        tmp_path, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    notes = [json.loads(p.read_text()) for p in (tmp_path / "sweep").glob("*/failed.json")]
    assert any(note["error"] == "ZeroDivisionError: a defect" for note in notes)
    assert (tmp_path / "sweep" / "table.md").is_file()


@pytest.mark.long
def test_the_local_launcher_runs_jobs_at_once_and_says_what_became_of_them(tmp_path) -> None:
    arguments = ["-m", *TINY, "hydra/launcher=local", "hydra.sweep.dir=sweep",
                 "model=source_only,dann", "data.batch_size=16,9999"]  # fmt: skip
    done = command("train", arguments, tmp_path)
    assert done.returncode == 1, done.stdout
    lines = done.stdout.splitlines()
    started = [number for number, line in enumerate(lines) if ": started, see" in line]
    ended = [number for number, line in enumerate(lines) if ": f" in line and "digits" in line]
    assert started[1] < ended[0], "one after the other"
    assert sum("failed: data" in line or "failed: source" in line for line in lines) == 2
    assert "2 job(s) of the sweep did not finish" in done.stderr
    names = sorted(path.parent.name for path in (tmp_path / "sweep").rglob("report.json"))
    # source_only is in the sweep, as the processes know; joint_bn is not.
    assert [name.split("-")[0] for name in names] == ["dann", "joint_bn", "source_only"]
    again = command("train", arguments, tmp_path)
    assert again.stdout.count("done before") == 2


@pytest.mark.long
def test_the_local_launcher_lets_its_jobs_save_when_it_is_stopped(tmp_path) -> None:
    arguments = ["-m", *TINY, "hydra/launcher=local", "hydra.sweep.dir=sweep", "bracket=false",
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
    assert "interrupted; goes on when the sweep is started again" in output
    assert not list(tmp_path.glob("sweep/*/failed.json"))
