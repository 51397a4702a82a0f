"""State of the jobs of a sweep, read from their run folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.config.identity import job_key
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.schema import fingerprint_of, read_report
from tl_lightning.utils.files import read_json, write_json
from tl_lightning.utils.run_id import run_id
from tl_lightning.utils.text import masked

__all__ = [
    "begin",
    "failures",
    "finished",
    "note_failure",
    "noted_failure",
    "swept_models",
    "wholly_finished",
]

#: Messages of the jobs that failed in this process.
failures: list[str] = []
#: Folders whose results this process has refused to take as those of its job.
_kept: set[Path] = set()


def swept_models() -> list[str]:
    """Return the models that this sweep contains, also in a process started by a launcher."""
    overrides = [argument for argument in sys.argv if argument.startswith("model=")]
    models = os.environ.get("TL_SWEPT_MODELS", overrides[0] if overrides else "")
    return [name for name in models.removeprefix("model=").split(",") if name]


def begin(folder: Path, config: Mapping[str, Any], baselines: Sequence[str] = ()) -> None:
    """Record a job in its run folder, and remove the record of an earlier failure.

    Args:
        folder: Run folder of the job.
        config: Configuration as for :func:`job_key`.
        baselines: Names of the baselines that the job trains in addition to its model.
    """
    write_json(folder / "job.json", {
        "key": job_key(config), "command": run_id(), "requested": _requested(config),
        "baselines": list(baselines),
    })  # fmt: skip
    (folder / "failed.json").unlink(missing_ok=True)


def _requested(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"baselines": config["baselines"], "models": swept_models()}


def finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a finished job, or None if the job has to be run or resumed.

    Raises:
        ConfigError: If the folder contains a different job, or its data have changed since.
    """
    try:
        return _finished(folder, config)
    except ConfigError:
        _kept.add(folder)
        raise


def _finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    job = _read(folder / "job.json")
    if job is not None and job.get("key") != job_key(config):
        raise ConfigError(
            f"{folder} contains a different job of an earlier sweep; set another hydra.sweep.dir, "
            "or keep the default hydra.sweep.subdir, which ends in a unique key for each job"
        )
    try:
        report = read_report(folder) if job else None
    except DataError:
        return None
    if report is not None and fingerprint_of(report) is not None:
        from tl_lightning.training.data_version import check_version  # imports torch

        check_version(report, config, folder)
    return report


def wholly_finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a job if its model and all of its baselines are finished."""
    job = _read(folder / "job.json") or {}
    baselines = [folder / "baselines" / name for name in job.get("baselines", [])]
    failed = (folder / "failed.json").is_file()
    complete = (
        not failed
        and job.get("requested") == _requested(config)
        and all((path / "report.json").is_file() for path in baselines)
    )
    return finished(folder, config) if complete else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except DataError:
        return None


def note_failure(folder: Path, message: str, overrides: Sequence[str]) -> None:
    """Record the failure of a job in :data:`failures` and in its folder.

    A folder with the results of another job, or on other data, is left as it is.
    """
    if folder not in _kept:
        write_json(folder / "failed.json", masked({"error": message, "overrides": list(overrides)}))
    failures.append(message)


def noted_failure(folder: Path) -> str:
    """Return the recorded error of a job, or an empty string."""
    return str((_read(folder / "failed.json") or {}).get("error", ""))
