"""Folders that this package writes, marks as its own, and may remove again.

A folder is only cleaned up if it contains the file :data:`MARK`, and only files with the names that
this package writes there are removed. Everything else in it is left alone, and the folder with it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tl_lightning.errors import DataError
from tl_lightning.utils.files import run_lock

__all__ = [
    "MARK",
    "draft_folder",
    "follow_umask",
    "is_owned",
    "new_folder",
    "own",
    "publish",
    "remove_drafts",
    "remove_owned",
]

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
    follow_umask(draft)
    return draft


def follow_umask(folder: Path) -> None:
    """Give a folder of ``tempfile.mkdtemp``, which only its owner may read, the usual mode."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)


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


def remove_drafts(folder: Path) -> None:
    """Remove drafts that killed processes have left; a running one holds its lock."""
    for draft in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        if is_owned(draft):
            with run_lock(draft) as acquired:
                if acquired:
                    shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def new_folder(folder: Path, keep: bool = True) -> Iterator[Path]:
    """Yield a draft that becomes ``folder`` if the body succeeds, and is removed if not.

    Drafts that killed processes have left are removed. If the body removes :data:`MARK` from the
    draft, that is removed as well, without becoming ``folder``.

    Args:
        folder: Does not exist, or is empty.
        keep: Whether the draft becomes the folder; if not, the body moves its files itself.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        with run_lock(draft):
            (draft / MARK).write_text(_TEXT)
            yield draft
            if not (draft / MARK).exists() or not keep:
                return
            (draft / MARK).unlink()
        (draft / ".lock").unlink(missing_ok=True)
        follow_umask(draft)
        if folder.exists():
            folder.rmdir()
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
