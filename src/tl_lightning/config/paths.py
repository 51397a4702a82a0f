"""Where the package's own files lie, and where a command's own go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CONF", "output_fault"]

_HERE = Path(__file__).resolve().parents[1]
#: A wheel carries conf/ inside the package; an editable install reads the repository's.
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parents[1] / "conf"


def output_fault(typed: Sequence[str]) -> str:
    """Return why the folder of a run or sweep cannot be made, in a sentence; empty if it can.

    Hydra makes it before anything of ours runs, and ends in a traceback where it cannot.

    Args:
        typed: The command's arguments.

    >>> output_fault(["model=dann", "hydra.run.dir=/dev/null/a"])
    'hydra.run.dir=/dev/null/a cannot be made: /dev/null is no folder; type hydra.run.dir=<folder>'
    """
    if any(word.startswith("-") and word not in ("-m", "--multirun") for word in typed):
        return ""  # --help and its like write nothing
    key = "hydra.sweep.dir" if {"-m", "--multirun"} & set(typed) else "hydra.run.dir"
    said = [word.partition("=")[2] for word in typed if word.startswith(f"{key}=")]
    place = said[-1].strip("'\"") if said else "outputs"
    if "${" in place:
        return ""
    path = Path(place).absolute()
    there = next(part for part in (path, *path.parents) if part.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ""
    why = "may not be written to" if there.is_dir() else "is no folder"
    return f"{key}={place} cannot be made: {there} {why}; type {key}=<folder>"
