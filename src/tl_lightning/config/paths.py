"""Path of ``conf/``, and a check of a command's output folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CONF", "output_problem"]

_PACKAGE = Path(__file__).resolve().parents[1]
#: A wheel contains conf/ inside the package; an editable install reads the repository's.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


def output_problem(arguments: Sequence[str]) -> str:
    """Return why the folder of a run or sweep cannot be created; empty if it can.

    Hydra creates the folder before any of our code runs, and fails with a traceback.

    Args:
        arguments: The command's arguments.

    >>> output_problem(["model=dann", "hydra.run.dir=/dev/null/a"])
    'cannot create hydra.run.dir=/dev/null/a: /dev/null is not a folder; set hydra.run.dir=<folder>'
    """
    if any(item.startswith("-") and item not in ("-m", "--multirun") for item in arguments):
        return ""  # --help and similar flags write nothing
    key = "hydra.sweep.dir" if {"-m", "--multirun"} & set(arguments) else "hydra.run.dir"
    values = [item.partition("=")[2] for item in arguments if item.startswith(f"{key}=")]
    folder = values[-1].strip("'\"") if values else "outputs"
    if "${" in folder:
        return ""
    path = Path(folder).absolute()
    parent = next(part for part in (path, *path.parents) if part.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return ""
    reason = "is not writable" if parent.is_dir() else "is not a folder"
    return f"cannot create {key}={folder}: {parent} {reason}; set {key}=<folder>"
