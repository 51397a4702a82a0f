"""The folder of the caches, also if it is shared with other users."""

from __future__ import annotations

import getpass
import os
from functools import cache
from pathlib import Path

from tl_lightning.utils.console import say

__all__ = ["own_cache", "writable_cache"]


def own_cache() -> Path:
    """Return the default folder of the caches."""
    return Path.home() / ".cache" / "tl_lightning"


@cache
def writable_cache(folder: Path) -> Path:
    """Return a folder of caches, or one of this user if parts of it cannot be written.

    Users share a cache if all of them may write all of its folders (a group and its umask).
    Otherwise whoever comes second uses the subfolder ``cache-<user>``, or the default folder; a
    note is printed once.

    Args:
        folder: The configured folder, which may not exist yet.
    """
    if not _blocked(folder):
        return folder
    for other in (folder / f"cache-{_user()}", own_cache()):
        if other != folder and not _blocked(other):
            say(
                f"note: caches are written to {other}, as {folder} contains folders of another "
                "user that are not writable"
            )
            return other
    return folder  # what cannot be written is reported where it is written


def _blocked(folder: Path) -> bool:
    """Return whether the folder, or one of the first two levels in it, is not writable."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    folders = [existing]
    if existing == folder and _writable(folder):
        levels = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
        folders += [path for path in levels if "cache-" not in str(path.relative_to(folder))]
    return not all(_writable(path) for path in folders if path.is_dir())


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK | os.X_OK)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # the user has no name, for instance in a container
        return "other"
