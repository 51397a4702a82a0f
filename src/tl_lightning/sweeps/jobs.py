"""What a sweep has done: its run folders are the ledger, each under the key of its job."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.config.identity import job_key
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.schema import read_report
from tl_lightning.utils.files import read_json, write_json
from tl_lightning.utils.run_id import run_id

__all__ = [
    "begin",
    "failures",
    "finished",
    "note_failure",
    "noted_failure",
    "swept_models",
    "wholly_finished",
]

#: The words of the jobs that failed in this process's sweep.
failures: list[str] = []


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


def note_failure(folder: Path, words: str, overrides: Sequence[str]) -> None:
    """Leave a note in the folder of a job that failed, and count it."""
    write_json(folder / "failed.json", {"error": words, "overrides": list(overrides)})
    failures.append(words)


def noted_failure(folder: Path) -> str:
    """Return how a job failed, in its own words; empty if it did not."""
    return str((_read(folder / "failed.json") or {}).get("error", ""))
