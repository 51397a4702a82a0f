"""Paths of checkpoints, checked before torch is imported, which takes seconds."""

from __future__ import annotations

import re
from pathlib import Path

from tl_lightning.errors import CheckpointError

__all__ = ["NAME", "check_place", "hub_name", "no_checkpoint"]

#: ``owner/name``, as the Hugging Face hub allows it.
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
#: Endings of files, which are misspelt paths rather than names on the hub.
_FILES = (".ckpt", ".pt", ".pth", ".safetensors", ".json", ".bin")


def hub_name(path: Path) -> str | None:
    """Return a path that is a name on the hub, ``owner/name`` or ``owner/name@revision``, as text.

    None for others: paths of files, and paths whose first folder exists, which are misspelt.

    >>> hub_name(Path("owner/dogs@v1"))
    'owner/dogs@v1'
    >>> [hub_name(Path(name)) for name in ("outputs/dann/run", "owner/last.ckpt", "dogs")]
    [None, None, None]
    """
    text = path.as_posix()
    name, _, revision = text.partition("@")
    valid = NAME.fullmatch(name) and re.fullmatch(r"[\w./-]*", revision)
    if not valid or name.endswith(_FILES) or Path(name).parent.is_dir():
        return None
    return text


def check_place(path: str | Path, key: str = "checkpoint") -> None:
    """Check that there is anything at the path of a checkpoint, or that it is a name on the hub.

    Args:
        path: What the user set.
        key: The setting.

    Raises:
        CheckpointError: If there is nothing.
    """
    place = Path(path).expanduser()
    if not place.exists() and not hub_name(place):
        raise CheckpointError(no_checkpoint(Path(path), key))


def no_checkpoint(path: Path, key: str) -> str:
    """Return the message for a path without a checkpoint."""
    return (
        f"{key}={path} is neither a checkpoint nor the folder of a run with a checkpoint; set "
        f"{key}=<.ckpt file, run folder or published folder>"
    )
