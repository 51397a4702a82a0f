"""Sweep jobs in separate local processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_lightning.config.overrides import quoted
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.measure import measure_of
from tl_lightning.sweeps.jobs import (
    failures,
    finished,
    note_failure,
    noted_failure,
    swept_models,
    wholly_finished,
)
from tl_lightning.utils.run_id import run_id

__all__ = ["Job", "left_to_do", "run_local", "shares"]

#: Exit codes of a job that was interrupted and can be resumed by starting the sweep again.
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


@dataclass(frozen=True)
class Job:
    """Job of a sweep.

    Attributes:
        folder: Run folder.
        overrides: Overrides of the job, including those shared by the sweep, without Hydra's.
        hydra: Overrides of Hydra's own settings, for the whole sweep.
        config: Composed configuration as plain values.
    """

    folder: Path
    overrides: list[str]
    hydra: list[str]
    config: dict[str, Any]

    @property
    def command(self) -> list[str]:
        """The command line of this job: a sweep of one job in the same folder."""
        own = ("hydra/launcher", "hydra.launcher", "hydra.sweep.", "hydra.mode", "hydra/sweeper")
        kept = [override for override in self.hydra if not override.lstrip("+~").startswith(own)]
        return [
            *(sys.executable, "-m", "tl_lightning", "--multirun"),
            *(*_flags(), *self.overrides, *kept),
            # Set explicitly, since a subdir that contains the job number would change to 0.
            f"hydra.sweep.dir={quoted(str(self.folder.parent))}",
            f"hydra.sweep.subdir={quoted(self.folder.name)}",
            "hydra/launcher=basic",
        ]

    def report(self) -> dict[str, Any] | None:
        """Return the report of the job, or None if it has not finished."""
        return finished(self.folder, self.config)

    def ended(self, code: int, log: Path) -> str:
        """Return a status message for the finished process, and record an unreported failure."""
        failure = noted_failure(self.folder)
        if code in INTERRUPTED and not failure:
            failures.append("interrupted")
            return "interrupted; resumes when the sweep is started again"
        if code and not failure:
            failure = f"the job's process exited with code {code} and no error message; see {log}"
        if failure:
            note_failure(self.folder, failure, self.overrides)
            return f"failed: {failure}"
        report = self.report()
        if report is None:
            return f"no report was written; see {log}"
        measure = measure_of(report)
        value = report["metrics"].get(f"target/test/{measure.metric}")
        return "finished" + (f", target {measure.text(value)}" if value is not None else "")


def _flags() -> list[str]:
    """Return the Hydra flags of this command that select the configuration file."""
    names = {"-cn", "-cp", "-cd", "--config-name", "--config-path", "--config-dir"}
    flags = []
    for argument, value in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if argument in names:
            flags += [argument, value]
        elif argument.partition("=")[0] in names:
            flags.append(argument)
    return flags


def environment() -> dict[str, str]:
    """Return the environment variables that describe the sweep to a job."""
    models = ",".join(swept_models())
    return {"TL_RUN_ID": run_id(), "TL_SWEPT_MODELS": models, "TL_PART_OF_SWEEP": "1"}


def left_to_do(jobs: Sequence[Job]) -> list[Job]:
    """Return the unfinished jobs without duplicates, and print the others.

    Raises:
        ConfigError: If the folder of a job contains a different job.
    """
    unfinished: dict[Path, Job] = {}
    for job in jobs:
        if wholly_finished(job.folder, job.config):
            print(f"already finished: {job.folder.name}", flush=True)
        elif job.folder in unfinished:
            print(f"duplicate job skipped: {job.folder.name}", flush=True)
        else:
            unfinished[job.folder] = job
    return list(unfinished.values())


def shares(gpus: Sequence[int | str], jobs: int) -> list[str]:
    """Return ``CUDA_VISIBLE_DEVICES`` for each of ``jobs`` parallel jobs.

    >>> shares([0, 1, 2, 3], 2)
    ['0,1', '2,3']
    >>> shares([0, 1], 3)
    ['0', '1', '0']
    """
    each = max(1, len(gpus) // jobs)
    starts = [(slot * each) % max(1, len(gpus)) for slot in range(jobs)]
    return [",".join(map(str, gpus[start : start + each])) for start in starts]


def run_local(
    jobs: Sequence[Job], *, parallel: int, gpus: str | Sequence[int | str], threads: int | None
) -> None:
    """Run the unfinished jobs on this machine, ``parallel`` at a time.

    Args:
        jobs: Jobs of the sweep.
        parallel: Number of jobs that run at the same time.
        gpus: GPUs to distribute over the jobs, or ``auto`` for all visible ones.
        threads: CPU threads per job, or None to divide the cores evenly.
    """
    if not isinstance(parallel, int) or parallel < 1:
        raise ConfigError(
            f"hydra.launcher.parallel={parallel} must be a positive integer; set "
            "hydra.launcher.parallel=2"
        )
    visible = shares(_visible_gpus() if gpus == "auto" else list(gpus), parallel)
    cores = threads or max(1, (os.cpu_count() or 1) // parallel)
    waiting, free = left_to_do(jobs), list(range(parallel))
    running: dict[int, tuple[Job, subprocess.Popen[bytes], Path]] = {}
    with _stopping(running):
        while waiting or running:
            while waiting and free:
                slot, job = free.pop(0), waiting.pop(0)
                env = {**environment(), "OMP_NUM_THREADS": str(cores)}
                env |= {"CUDA_VISIBLE_DEVICES": visible[slot]} if visible[slot] else {}
                running[slot] = (job, *_start(job, env))
            time.sleep(0.1)
            for slot, (job, process, log) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[slot]
                    free.append(slot)
                    print(f"{job.folder.name}: {job.ended(code, log)}", flush=True)


def _visible_gpus() -> list[int | str]:
    """Return the visible GPUs as named in ``CUDA_VISIBLE_DEVICES``, which child processes need."""
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus: list[int | str] = list(range(torch.cuda.device_count()))
    return [*names.split(",")] if gpus and names else gpus


def _start(job: Job, env: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
    log = job.folder.parent / ".logs" / f"{job.folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{job.folder.name}: started, see {log}", flush=True)
    with log.open("ab") as file:
        # In a new session, so that Ctrl-C only reaches it through this process.
        process = subprocess.Popen(
            job.command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return process, log


@contextlib.contextmanager
def _stopping(running: Mapping[int, tuple[Job, subprocess.Popen[bytes], Path]]) -> Iterator[None]:
    """Pass termination signals on to the jobs, so that they save a checkpoint before exiting."""

    def stop(*_: object) -> None:
        raise SystemExit(143)

    numbers = [signal.SIGTERM]
    if sys.platform != "win32":
        numbers.append(signal.SIGUSR1)
    handlers = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for _, process, _ in running.values():
            process.terminate()
        for job, process, log in running.values():
            print(f"{job.folder.name}: {job.ended(process.wait(), log)}", flush=True)
