"""What lies around the pictures and is passed over: a loader ignores it without a word."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tl_lightning.data.io.folders import EXTENSIONS, IGNORED, class_folders, signature_fault

__all__ = ["passed_over"]

#: Suffixes of pictures that no layout here takes up.
OTHER_FORMATS = frozenset(
    {".gif", ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".jpe", ".apng"}
    | {".tga", ".psd", ".svg", ".eps", ".pgm", ".pbm", ".pnm", ".dds", ".exr", ".hdr", ".ico"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
)
SPLIT_FOLDERS = frozenset({"train", "val", "test", "Images"})


def passed_over(paths: Sequence[Path]) -> Iterator[tuple[str, Path, str]]:
    """Yield kind, path and detail of what looks like a picture near ``paths`` but is not of them.

    Looks into the class folders (the parents of ``paths``, and folders beside them without any
    picture that is read), everything below them, and the one or two folders above them.
    """
    known = set(paths)
    classes = sorted({path.parent for path in paths})
    for folder in classes:
        yield from _class_folder(folder, known)
    above = {folder.parent for folder in classes}
    for folder in sorted(path for parent in above for path in class_folders(parent)):
        if folder not in classes:
            others = list(_class_folder(folder, known))
            # A class that was not asked for is no fault; one of unread formats alone is.
            if not any(kind == "unlisted" for kind, _, _ in others):
                yield from others
    above |= {folder.parent for folder in above if folder.name in SPLIT_FOLDERS}
    for folder in sorted(above - set(classes)):
        for entry in _entries(folder):
            if _suffix(entry.name) in EXTENSIONS | OTHER_FORMATS and entry.is_file():
                yield "outside", Path(entry.path), "beside the class folders"


def _class_folder(folder: Path, known: set[Path]) -> Iterator[tuple[str, Path, str]]:
    for entry in _entries(folder):
        path, suffix = folder / entry.name, _suffix(entry.name)
        if path in known:
            continue
        if suffix in EXTENSIONS and not entry.is_file():
            yield "no_file", path, _what(entry)
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(path)
        elif suffix in EXTENSIONS:
            yield "unlisted", path, ""
        elif suffix in OTHER_FORMATS:
            yield "ignored_format", path, suffix
        elif not suffix and entry.is_file() and _begins_like_a_picture(path):
            yield "ignored_format", path, "no suffix"


def _below(folder: Path) -> Iterator[tuple[str, Path, str]]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in IGNORED)
        for name in sorted(files):
            if not name.startswith(".") and _suffix(name) in EXTENSIONS | OTHER_FORMATS:
                yield "outside", Path(where, name), "deeper than a class folder"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        # Archivers leave ._1.jpg and __MACOSX behind: never meant as pictures.
        shown = [e for e in entries if not e.name.startswith(".") and e.name not in IGNORED]
    return sorted(shown, key=lambda entry: entry.name)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _what(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and not os.path.exists(entry.path):
        return f"a link to {os.readlink(entry.path)}, which is not there"
    return "a folder" if entry.is_dir() else "a device or pipe"


def _begins_like_a_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not signature_fault(file.read(12))
    except OSError:
        return False  # nothing claims that it is a picture
