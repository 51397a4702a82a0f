"""Folders that this package writes, marks as its own, and may remove again.

A folder is only cleaned up if it contains the file :data:`MARK`, and only files with the names that
this package writes there are removed. Everything else in it is left alone, and the folder with it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tl_lightning.errors import DataError

__all__ = ["MARK", "draft_folder", "is_owned", "own", "publish", "remove_owned"]

#: Name of the file that marks a folder.
MARK = ".tl_lightning"
_TEXT = "Written by tl_lightning, which may remove its own files in this folder.\n"


def is_owned(folder: Path) -> bool:
    """Return whether this package has created the folder; links are not followed."""
    return folder.is_dir() and not folder.is_symlink() and (folder / MARK).is_file()


def own(folder: Path) -> Path:
    """Create a folder and mark it; return it.

    Raises:
        DataError: If it exists with other contents.
        OSError: If it cannot be written.
    """
    if is_owned(folder):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # A lock, and what another process is about to mark, are hidden files.
    if any(not item.name.startswith(".") for item in folder.iterdir()):
        raise DataError(
            f"{folder} exists, but was not written by tl_lightning; move it away, or set another "
            "folder for the cache (cache.dir or the environment variable TL_CACHE)"
        )
    (folder / MARK).write_text(_TEXT)
    return folder


def draft_folder(folder: Path, suffix: str = ".tmp") -> Path:
    """Return a new marked folder beside ``folder``, named ``<folder>.<random><suffix>``."""
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=suffix, dir=folder.parent))
    (draft / MARK).write_text(_TEXT)
    umask = os.umask(0)
    os.umask(umask)
    draft.chmod(0o777 & ~umask)  # mkdtemp folders are only accessible to their owner
    return draft


def publish(draft: Path, folder: Path, last: str) -> None:
    """Rename a finished draft to ``folder``.

    If ``folder`` is owned but could not be removed, as it contains files of others, the files of
    the draft are moved into it, ``last`` as the last one.

    Raises:
        DataError: If ``folder`` exists and is not owned.
    """
    if not folder.exists():
        os.replace(draft, folder)
        return
    own(folder)
    for file in sorted(draft.iterdir(), key=lambda file: file.name == last):
        os.replace(file, folder / file.name)
    draft.rmdir()


def remove_owned(folder: Path, names: Sequence[str]) -> None:
    """Remove an owned folder with the files that match ``names``; keep other files, if any.

    Args:
        folder: Left unchanged if it is not owned.
        names: Patterns of file names, such as ``*.safetensors``.
    """
    if not is_owned(folder):
        return
    with contextlib.suppress(OSError):  # another process removes it as well, or uses it (Windows)
        for name in names:
            for file in folder.glob(name):
                if file.is_file() or file.is_symlink():
                    file.unlink()
        if all(item.name == MARK for item in folder.iterdir()):
            (folder / MARK).unlink()
            folder.rmdir()
