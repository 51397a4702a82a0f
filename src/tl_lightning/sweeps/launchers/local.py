"""The jobs of a sweep in processes of their own: what starts one, and what became of it."""

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

from tl_lightning.errors import ConfigError
from tl_lightning.sweeps.jobs import (
    failures,
    finished,
    note_failure,
    noted_failure,
    swept_models,
    wholly_finished,
)
from tl_lightning.utils.run_id import run_id

__all__ = ["Job", "left_to_do", "run_here", "shares"]

#: Exit codes of a job that somebody stopped: it goes on when the sweep is started again.
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        folder: Its run folder.
        overrides: What sets it apart and all else that was typed, without Hydra's own.
        hydra: Hydra's own overrides, as typed for the whole sweep.
        config: Its composed configuration as plain values.
    """

    folder: Path
    overrides: list[str]
    hydra: list[str]
    config: dict[str, Any]

    @property
    def command(self) -> list[str]:
        """The command of this job alone: a sweep of one in the same folder."""
        ours = (
            "hydra/launcher",
            "hydra.launcher",
            "hydra.sweep.",
            "hydra.mode",
            "hydra/sweeper",
        )
        kept = [word for word in self.hydra if not word.lstrip("+~").startswith(ours)]
        return [
            *(
                sys.executable,
                "-m",
                "tl_lightning",
                "--multirun",
                *_flags(),
                *self.overrides,
                *kept,
            ),
            # Also where the sweep names its folders by the number of a job, which is 0 there.
            *(
                f"hydra.sweep.dir='{self.folder.parent}'",
                f"hydra.sweep.subdir='{self.folder.name}'",
            ),
            "hydra/launcher=basic",
        ]

    def report(self) -> dict[str, Any] | None:
        """Return its report once the model is trained."""
        return finished(self.folder, self.config)

    def ended(self, code: int, log: Path) -> str:
        """Return in a few words what became of its process; note a failure that left no note."""
        failure = noted_failure(self.folder)
        if code in INTERRUPTED and not failure:
            failures.append("interrupted")
            return "interrupted; goes on when the sweep is started again"
        if code and not failure:
            failure = f"the job's process ended with code {code} without a word; see {log}"
        if failure:
            note_failure(self.folder, failure, self.overrides)
            return f"failed: {failure}"
        report = self.report()
        if report is None:
            return f"nothing to show; see {log}"
        accuracy = report["metrics"].get("target/test/acc")
        return "finished" + (f", target {100 * accuracy:.1f} %" if accuracy is not None else "")


def _flags() -> list[str]:
    """Return how this command chose another configuration than ``conf/train.yaml``, if it did."""
    names = {"-cn", "-cp", "-cd", "--config-name", "--config-path", "--config-dir"}
    found = []
    for word, value in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if word in names:
            found += [word, value]
        elif word.partition("=")[0] in names:
            found.append(word)
    return found


def environment() -> dict[str, str]:
    """Return the variables that tell a job what it is part of."""
    models = ",".join(swept_models())
    return {"TL_RUN_ID": run_id(), "TL_SWEPT_MODELS": models, "TL_PART_OF_SWEEP": "1"}


def left_to_do(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that are not done, once each; print a line for each that is.

    Raises:
        ConfigError: If a job's folder holds another job.
    """
    found: dict[Path, Job] = {}
    for job in jobs:
        if wholly_finished(job.folder, job.config):
            print(f"done before: {job.folder.name}", flush=True)
        elif job.folder in found:
            print(f"asked for twice: {job.folder.name}", flush=True)
        else:
            found[job.folder] = job
    return list(found.values())


def shares(gpus: Sequence[int | str], jobs: int) -> list[str]:
    """Return ``CUDA_VISIBLE_DEVICES`` of each of so many jobs at a time.

    >>> shares([0, 1, 2, 3], 2)
    ['0,1', '2,3']
    >>> shares([0, 1], 3)
    ['0', '1', '0']
    """
    each = max(1, len(gpus) // jobs)
    starts = [(slot * each) % max(1, len(gpus)) for slot in range(jobs)]
    return [",".join(map(str, gpus[start : start + each])) for start in starts]


def run_here(
    jobs: Sequence[Job], *, parallel: int, gpus: str | Sequence[int | str], threads: int | None
) -> None:
    """Run the jobs that are not done on this machine, ``parallel`` at a time.

    Args:
        jobs: Of the sweep.
        parallel: How many run at the same time.
        gpus: Which GPUs are dealt out to them; ``auto``: all that this process sees.
        threads: CPU threads of a job; None: the cores, shared out.
    """
    if not isinstance(parallel, int) or parallel < 1:
        raise ConfigError(
            f"hydra.launcher.parallel={parallel} is no number of jobs; type "
            "hydra.launcher.parallel=2"
        )
    visible = shares(_seen() if gpus == "auto" else list(gpus), parallel)
    cores = threads or max(1, (os.cpu_count() or 1) // parallel)
    waiting, free = left_to_do(jobs), list(range(parallel))
    running: dict[int, tuple[Job, subprocess.Popen[bytes], Path]] = {}
    with _stopping(running):
        while waiting or running:
            while waiting and free:
                slot, job = free.pop(0), waiting.pop(0)
                own = {**environment(), "OMP_NUM_THREADS": str(cores)}
                own |= {"CUDA_VISIBLE_DEVICES": visible[slot]} if visible[slot] else {}
                running[slot] = (job, *_start(job, own))
            time.sleep(0.1)
            for slot, (job, process, log) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[slot]
                    free.append(slot)
                    print(f"{job.folder.name}: {job.ended(code, log)}", flush=True)


def _seen() -> list[int | str]:
    """Return the GPUs that this process sees, by the names its children have to use."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    found: list[int | str] = list(range(torch.cuda.device_count()))
    return [*named.split(",")] if found and named else found


def _start(job: Job, own: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
    log = job.folder.parent / ".logs" / f"{job.folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{job.folder.name}: started, see {log}", flush=True)
    with log.open("ab") as file:
        # A session of its own: Ctrl-C reaches it once, through this process.
        process = subprocess.Popen(
            job.command, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return process, log


@contextlib.contextmanager
def _stopping(running: Mapping[int, tuple[Job, subprocess.Popen[bytes], Path]]) -> Iterator[None]:
    """When this process is told to stop, let the jobs save and stop too."""

    def stop(*_: object) -> None:
        raise SystemExit(143)

    before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for _, process, _ in running.values():
            process.terminate()
        for job, process, log in running.values():
            print(f"{job.folder.name}: {job.ended(process.wait(), log)}", flush=True)
