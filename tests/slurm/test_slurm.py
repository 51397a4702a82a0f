"""``hydra/launcher=slurm`` on a single-node SLURM; skipped if SLURM cannot be started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from toy import cluster, missing

from conftest import REPO, TINY

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

JOB = [
    "-m", *TINY, "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.poll_s=1", "hydra.launcher.time=30", "trainer=ddp", "trainer.accelerator=cpu",
    "trainer.devices=2", "hydra.sweep.dir=sweep",
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    with cluster(tmp_path_factory.mktemp("slurm")) as variables:
        yield {**variables, "OMP_NUM_THREADS": "1"}


def started(slurm: dict[str, str], cwd: Path, *more: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in slurm.items() if key != "TL_RUN_ID"}
    return subprocess.Popen(
        [sys.executable, str(REPO / "scripts" / "train.py"), *JOB, *more], cwd=cwd,
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def output_of(slurm: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout


def wait_until(ready, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def logs_of(cwd: Path) -> str:
    return "\n".join(path.read_text() for path in (cwd / "sweep" / ".slurm").rglob("*.log"))


def test_two_tasks_are_the_two_ranks_of_a_job(slurm, tmp_path) -> None:
    """An array of two jobs, each with two ranks and one run folder."""
    process = started(slurm, tmp_path, "seed=0,1")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output + logs_of(tmp_path)
    assert output.count(": finished, target") == 2
    reports = list((tmp_path / "sweep").rglob("report.json"))
    assert len(reports) == 2
    # Both ranks print that baselines are skipped, but only one of them prints the epochs.
    assert logs_of(tmp_path).count("skipping baselines of dann") == 4
    assert logs_of(tmp_path).count("epoch 2/2") == 2
    again = started(slurm, tmp_path, "seed=0,1")
    output, _ = again.communicate(timeout=300)
    assert output.count("already finished") == 2
    assert "submitted" not in output


def test_preempted_job_is_requeued_and_resumed(slurm, tmp_path) -> None:
    """Preempted by a job in a partition of higher priority, during which it saves a checkpoint."""
    process = started(slurm, tmp_path, "trainer.max_epochs=60")
    wait_until(lambda: list((tmp_path / "sweep").glob("*/checkpoints/last.ckpt")))
    urgent = tmp_path / "urgent.sbatch"
    urgent.write_text("#!/bin/bash\nsleep 1\n")
    output_of(
        slurm, "sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", str(urgent)
    )
    squeue = ("squeue", "--noheader", "--array", "--partition=debug", "--format=%F_%K %T")
    wait_until(lambda: "PENDING" in output_of(slurm, *squeue))
    job = output_of(slurm, *squeue).split()[0]
    time.sleep(3)  # SLURM delays requeued jobs by two minutes; start it now
    output_of(slurm, "scontrol", "update", f"jobid={job}", "StartTime=now")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output + logs_of(tmp_path)
    assert ": finished, target" in output
    (report,) = (tmp_path / "sweep").rglob("report.json")
    assert json.loads(report.read_text())["selection"]["epoch"] == 59
    epochs = [line.split()[1] for line in logs_of(tmp_path).splitlines() if line[:6] == "epoch "]
    assert epochs.count("1/60") == 1  # it did not start from scratch
    assert {f"{number}/60" for number in range(1, 61)} == {*epochs}
    assert len(epochs) <= 62, "more than one epoch was repeated"


def test_sample_scripts_are_valid_bash() -> None:
    for path in (REPO / "scripts" / "slurm").glob("*.sbatch"):
        subprocess.run(["bash", "-n", str(path)], check=True, env=dict(os.environ))
