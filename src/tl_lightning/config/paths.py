"""Path of ``conf/``, and a check of a command's output folder."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from tl_lightning.errors import nearest

__all__ = [
    "CONF",
    "REQUIRED",
    "choices",
    "file_problems",
    "folder_problem",
    "group_problems",
    "output_problem",
]

_PACKAGE = Path(__file__).resolve().parents[1]
#: A wheel contains conf/ inside the package; an editable install reads the repository's.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


#: Groups of which a run needs exactly one choice.
REQUIRED = ("backbone", "data", "head", "loss", "model", "optimizer", "scheduler", "trainer")


def choices(group: str) -> list[str]:
    """Return the names that a group of ``conf/`` can be set to; empty if there is no such group."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def group_problems(arguments: Sequence[str]) -> list[str]:
    """Return the groups that are set to a name that does not exist, or removed.

    Hydra fails for some of these with a traceback, and for others with its search path.

    Args:
        arguments: The command's arguments.

    >>> group_problems(["head=lin"]), group_problems(["head=linear,mlp", "method=[dann]"])
    (["head=lin is not a choice of conf/head/; did you mean 'linear'?"], [])
    """
    own = ("-cd", "-cp", "--config-dir", "--config-path", "hydra.searchpath")
    if any(item.split("=")[0] in own for item in arguments):
        return []  # the names may be those of other folders
    problems = []
    for item in arguments:
        name, equals, value = item.partition("=")
        group = name.lstrip("~+")
        names = choices(group)
        if not names or group.startswith("hydra/") or not (equals or name.startswith("~")):
            continue
        if name.startswith("~"):
            # Another node may take its place: '~head' '+head._target_=<class>'.
            replaced = any(other.startswith(f"+{group}.") for other in arguments)
            if group in REQUIRED and not replaced:
                problems.append(f"{name}: a run needs {group}=<name>; {nearest('', names)}")
            continue
        for word in re.split(r"[,\s]+", value.strip("[]'\"")):
            if re.fullmatch(r"[\w-]*", word) and word not in names:
                if word in ("", "null") and group not in REQUIRED:
                    continue
                problems.append(f"{item} is not a choice of conf/{group}/; {nearest(word, names)}")
                break
    return problems


def file_problems(arguments: Sequence[str]) -> list[str]:
    """Return the YAML files of the folders given by ``-cp`` or ``-cd`` that cannot be read.

    Hydra fails for these with a traceback; tags that would run code are among them.

    Args:
        arguments: The command's arguments.
    """
    given = [item for argument in arguments for item in argument.split("=", 1)]
    flags = ("-cd", "-cp", "--config-dir", "--config-path")
    problems = []
    for flag, folder in itertools.pairwise(given):
        for file in sorted(Path(folder).glob("*.yaml")) if flag in flags else ():
            try:
                OmegaConf.load(file)
            except Exception as error:  # those of PyYAML have no common base
                lines = " ".join(str(error).split())
                problems.append(f"{file} cannot be read ({lines}); correct or remove it")
    return problems


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
    return folder_problem(Path(folder), key)


def folder_problem(folder: Path, key: str) -> str:
    """Return why a folder cannot be created or written to; empty if it can.

    Args:
        folder: The folder, which is not created.
        key: The setting that it is given by, for the message.
    """
    path = Path(os.path.abspath(folder.expanduser()))
    try:
        parts = [path, *path.parents]
        number = next(number for number, part in enumerate(parts) if part.exists())
        parent = parts[number]
        reason = "is not writable" if parent.is_dir() else "is not a folder"
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            for part in parts[max(0, number - 1) : number]:  # the first that is missing
                part.mkdir()
                part.rmdir()
            return ""
    except (OSError, ValueError) as error:  # some file systems do not tell before
        parent, reason = path, f"cannot be created ({getattr(error, 'strerror', error)})"
    return f"cannot create {key}={folder}: {parent} {reason}; set {key}=<folder>"
