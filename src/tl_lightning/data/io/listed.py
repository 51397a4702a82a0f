"""Files that a table lists, also if it writes their paths in another way than the file system."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tl_lightning.data.io.folders import EXTENSIONS
from tl_lightning.data.io.labels import composed_form

__all__ = ["ListedFiles", "posix_path"]


def posix_path(path: str) -> str:
    r"""Return a path with slashes; tables written on Windows have backslashes.

    >>> posix_path("photo\\cat\\1.jpg")
    'photo/cat/1.jpg'
    """
    return os.path.normpath(path.replace("\\", "/"))


class ListedFiles:
    """Finds the images that a table lists.

    A file is found whether letters such as ``é`` are composed or not, and images without their
    suffix, as tables of ids list them.

    Args:
        bases: Folders to search, in this order.
    """

    def __init__(self, bases: Sequence[Path]) -> None:
        self.bases = bases
        #: Names in a folder by their composed form, with and without the suffix.
        self.names: dict[Path, dict[str, list[str]]] = {}

    def find(self, path: str) -> list[Path]:
        """Return the file, several of which nothing decides for one, or none.

        Args:
            path: Relative to one of the folders, or absolute.
        """
        for spelling in dict.fromkeys((path, posix_path(path))):
            for base in self.bases:
                # Joining an absolute path to a base returns the absolute path.
                if (base / spelling).is_file():
                    return [base / spelling]
        for base in self.bases:
            if found := self._otherwise(base / posix_path(path)):
                return found
        return []

    def _otherwise(self, path: Path) -> list[Path]:
        folder = Path(path.anchor)
        for part in path.parts[1:-1]:
            known = (folder / part).is_dir()
            inner = [part] if known else self._listed(folder).get(composed_form(part), [])
            if not inner or not (folder / inner[0]).is_dir():
                return []
            folder /= inner[0]
        found = [folder / name for name in self._listed(folder).get(composed_form(path.name), [])]
        return [file for file in found if file.is_file()]

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self.names:
            names: dict[str, list[str]] = {}
            for name in sorted(os.listdir(folder)):
                names.setdefault(composed_form(name), []).append(name)
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in EXTENSIONS:
                    names.setdefault(composed_form(stem), []).append(name)
            self.names[folder] = names
        return self.names[folder]
