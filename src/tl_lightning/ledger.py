"""What a sweep has done: its run folders are the ledger, each under the key of its job."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.errors import ConfigError, DataError
from tl_lightning.report.schema import read_json, read_report, write_json

__all__ = [
    "alone_in", "begin", "failures", "finished", "held", "identity", "job_key", "note_failure",
    "noted_failure", "run_id", "swept_models", "wholly_finished",
]  # fmt: skip

#: Keys that say where, when and beside what a run was made, not what it computes.
_CIRCUMSTANCES = (
    "seed",
    "bracket",
    "track_target",
    "resume",
    "allow",
    "report",
    "logger",
    "callbacks",
    "checkpoint",
)
#: What of the cache changes what is learned.
_OF_CACHE = ("images", "shorter", "features", "views")

#: The words of the jobs that failed in this process's sweep.
failures: list[str] = []


def run_id() -> str:
    """Return one id for this command, the same in every rank and job that it starts.

    A time stamp taken anew by each rank would give each its own folder.
    """
    found = os.environ.get("TL_RUN_ID", "")
    if found:
        return found
    if "SLURM_JOB_ID" in os.environ:
        # Two commands of one job may not write into one folder; a restart types the same again.
        typed = hashlib.sha256("\n".join(sys.argv[1:]).encode()).hexdigest()[:8]
        found = f"{os.environ['SLURM_JOB_ID']}-{typed}"
    elif os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none":
        found = os.environ["TORCHELASTIC_RUN_ID"]
    else:
        found = _torchrun_id() or f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    os.environ["TL_RUN_ID"] = found
    return found


def _torchrun_id() -> str:
    """Return an id that the ranks of a torchrun without ``--rdzv-id`` share; empty outside of one.

    Raises:
        ConfigError: If there are several nodes, which then share none.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    if os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE"):
        raise ConfigError(
            "torchrun has no id that its nodes share, and each would write a folder of its own; "
            "type torchrun --rdzv-id=<a name for this run> ..., or export TL_RUN_ID=<name>"
        )
    # When torchrun itself began, which started all ranks: clock ticks since the machine did.
    stat = Path(f"/proc/{os.getppid()}/stat")
    began = stat.read_text().rsplit(")", 1)[1].split()[19] if stat.is_file() else "0"
    return f"torchrun-{os.getppid()}-{began}"


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a configuration decides what a run computes, but its seed and callbacks."""
    kept = {key: value for key, value in config.items() if key not in _CIRCUMSTANCES}
    kept["data"] = {k: v for k, v in kept["data"].items() if k not in ("seed", "num_workers")}
    kept["trainer"] = {k: v for k, v in kept["trainer"].items() if k != "timeout_s"}
    kept["cache"] = {k: v for k, v in kept["cache"].items() if k in _OF_CACHE}
    every = config["checkpoint"]["every_n_epochs"]
    if every != 1:  # which epochs a rule may pick; runs from before it was kept compare too
        kept["checkpoint"] = {"every_n_epochs": every}
    if not kept.get("tasks"):  # runs from before there were any compare too
        kept = {key: value for key, value in kept.items() if key not in ("tasks", "balance")}
    if kept.get("lr_for_batch") is None:
        kept.pop("lr_for_batch", None)
    if not kept["trainer"].get("sync_batchnorm"):
        kept["trainer"].pop("sync_batchnorm", None)
    if config["lr_find"]:  # every seed finds its own
        kept["optimizer"] = {k: v for k, v in kept["optimizer"].items() if k != "lr"}
    return kept


def job_key(config: Mapping[str, Any]) -> str:
    """Return a short hash of what a job of a sweep computes, its seed and callbacks included.

    Of the configuration as composed, in which ``auto`` is still ``auto``: a node without a GPU
    gives the job the same key as one with.

    Args:
        config: The configuration as plain values, without Hydra's own node.
    """
    kept = identity(config)
    callbacks = config.get("callbacks") or {}
    kept |= {key: config[key] for key in ("seed", "track_target")}
    kept["callbacks"] = {key: value for key, value in callbacks.items() if key != "bar"}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def swept_models() -> list[str]:
    """Return the models that this command sweeps over, also in a process that a launcher began."""
    words = [word for word in sys.argv if word.startswith("model=")]
    named = os.environ.get("TL_SWEPT_MODELS", words[0] if words else "")
    return [name for name in named.removeprefix("model=").split(",") if name]


def begin(folder: Path, config: Mapping[str, Any], baselines: Sequence[str] = ()) -> None:
    """Note in a run folder which job it holds, and forget how it failed before.

    Args:
        folder: Of the job.
        config: As for :func:`job_key`.
        baselines: Names of those that the job trains besides its model.
    """
    write_json(folder / "job.json", {
        "key": job_key(config), "command": run_id(), "asked": _asked(config),
        "baselines": list(baselines),
    })  # fmt: skip
    (folder / "failed.json").unlink(missing_ok=True)


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"bracket": config["bracket"], "models": swept_models()}


def finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a job that is done; None if it has to run, for the first time or again.

    Raises:
        ConfigError: If the folder holds another job.
    """
    job = _read(folder / "job.json")
    if job is not None and job.get("key") != job_key(config):
        raise ConfigError(
            f"{folder} holds another job of an earlier sweep; type another hydra.sweep.dir, or "
            "leave hydra.sweep.subdir as it is: it ends in a key of its own for each job"
        )
    try:
        return read_report(folder) if job else None
    except DataError:
        return None


def wholly_finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a job's report if it and the baselines beside it are done: nothing need start."""
    job = _read(folder / "job.json") or {}
    beside = [folder / "bracket" / name for name in job.get("baselines", [])]
    failed = (folder / "failed.json").is_file()
    whole = (
        not failed
        and job.get("asked") == _asked(config)
        and all((place / "report.json").is_file() for place in beside)
    )
    return finished(folder, config) if whole else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except DataError:
        return None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a job's folder while inside; False if another process has it.

    The system lets go of it when the process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                yield False
                return
            print(f"no locks in {folder} ({error.strerror}): start a sweep once at a time there")
        yield True


@contextlib.contextmanager
def alone_in(folder: Path, wait_s: float = 10.0) -> Iterator[bool]:
    """Hold a single run's folder while inside, leaving no file; False if another process has it.

    Args:
        folder: Of the run.
        wait_s: Loader processes of a run that was killed still have its folder for some seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place, until = os.open(folder, os.O_RDONLY), time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    break  # no locks there, or none on folders
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.2)
            else:
                break
        yield True
    finally:
        os.close(place)


def note_failure(folder: Path, words: str, overrides: Sequence[str]) -> None:
    """Leave a note in the folder of a job that failed, and count it."""
    write_json(folder / "failed.json", {"error": words, "overrides": list(overrides)})
    failures.append(words)


def noted_failure(folder: Path) -> str:
    """Return how a job failed, in its own words; empty if it did not."""
    return str((_read(folder / "failed.json") or {}).get("error", ""))
