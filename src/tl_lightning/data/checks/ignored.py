"""Image-like files near the dataset that the loader silently skips."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_lightning.data.domain import Domain
from tl_lightning.data.io.folders import (
    EXTENSIONS,
    IGNORED,
    SPLIT_NAMES,
    class_folders,
    image_files,
    signature_problem,
)

__all__ = ["not_taken", "passed_over"]

#: Suffixes of image formats that are not supported.
OTHER_FORMATS = frozenset(
    {".gif", ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".apng"}
    | {".tga", ".psd", ".svg", ".eps", ".pgm", ".pbm", ".pnm", ".dds", ".exr", ".hdr", ".ico"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
)


def passed_over(
    paths: Sequence[Path], unlabelled: Sequence[Path] = ()
) -> Iterator[tuple[str, Path, str]]:
    """Yield kind, path and detail of image-like files that are not in the dataset.

    Searches the class folders (the parents of ``paths``, and siblings without supported images),
    everything below them, and the one or two folders above them; of images that are
    ``unlabelled``, whose folders are not class folders, only the folders that they are in.
    """
    known = {*paths, *unlabelled}
    for folder in sorted({path.parent for path in unlabelled}):
        yield from (item for item in _class_folder(folder, known) if item[0] != "outside")
    classes = sorted({path.parent for path in paths})
    for folder in classes:
        yield from _class_folder(folder, known)
    parents = {folder.parent for folder in classes}
    for folder in sorted(path for parent in parents for path in class_folders(parent)):
        if folder not in classes:
            skipped = list(_class_folder(folder, known))
            # A class that is not used is fine, but one with only unsupported formats is reported.
            if not any(kind == "unlisted" for kind, _, _ in skipped):
                yield from (item for item in skipped if item[0] != "outside")
    split_roots = {folder.parent for folder in parents if folder.name.lower() in SPLIT_NAMES}
    for root in sorted(split_roots - set(classes)):
        for folder in class_folders(root):
            if folder not in parents:
                yield from _next_to_splits(folder)
    parents |= split_roots | {path.parent for path in parents if path.name.lower() == "images"}
    for folder in sorted(parents - set(classes)):
        for entry in _entries(folder):
            image_like = _suffix(entry.name) in EXTENSIONS | OTHER_FORMATS and entry.is_file()
            if image_like and Path(entry.path) not in known:
                yield "outside", Path(entry.path), "next to the class folders"


def not_taken(found: Mapping[str, Domain], only_tested: bool = False) -> list[str]:
    """Return one message on the image files near the dataset that a run does not use; or none.

    Args:
        found: The domains, with unreadable images.
        only_tested: Whether the other splits are left out on purpose.
    """
    known: dict[Path, bool] = {}  # whether an image has a label
    for domain in found.values():
        for split in domain.splits().values():
            if not isinstance(split.samples, np.ndarray):
                labelled = split.has_labels
                known |= {path: known.get(path, False) or labelled for path in split.samples}
    labelled_ones = [path for path, labelled in known.items() if labelled]
    bare = sorted(path for path, labelled in known.items() if not labelled)
    groups: dict[str, list[Path]] = {}
    for kind, path, detail in passed_over(labelled_ones, bare):
        if only_tested and (kind == "unlisted" or detail == _BESIDE):
            continue
        groups.setdefault(_WHY[kind].format(detail), []).append(path)
    if not groups:
        return []
    total = sum(map(len, groups.values()))
    parts = [f"{len(paths):,} {why}, such as {paths[0]}" for why, paths in groups.items()]
    return [f"{total:,} image file(s) near the dataset are not used: {'; '.join(parts)}"]


_BESIDE = "in a folder next to the splits"
#: Why a run does not use an image file, by kind; filled in with the detail.
_WHY = {
    "no_file": "named as an image but {}",
    "unlisted": "in a class folder but in no split",
    "ignored_format": "of an unsupported format ({})",
    "outside": "{}",
}


def _next_to_splits(folder: Path) -> Iterator[tuple[str, Path, str]]:
    for inner in (folder, *class_folders(folder)):
        for path in image_files(inner):
            yield "outside", path, _BESIDE


def _class_folder(folder: Path, known: set[Path]) -> Iterator[tuple[str, Path, str]]:
    for entry in _entries(folder):
        path, suffix = folder / entry.name, _suffix(entry.name)
        if path in known:
            continue
        if suffix in EXTENSIONS and not entry.is_file():
            yield "no_file", path, _type_of(entry)
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(path)
        elif suffix in EXTENSIONS:
            yield "unlisted", path, ""
        elif suffix in OTHER_FORMATS:
            yield "ignored_format", path, suffix
        elif not suffix and entry.is_file() and _has_signature(path):
            yield "ignored_format", path, "no suffix"


def _below(folder: Path) -> Iterator[tuple[str, Path, str]]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in IGNORED)
        for name in sorted(files):
            if not name.startswith(".") and _suffix(name) in EXTENSIONS | OTHER_FORMATS:
                yield "outside", Path(parent, name), "in a subfolder of a class folder"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        # Archive tools create ._1.jpg and __MACOSX, which are never images.
        visible = [e for e in entries if not e.name.startswith(".") and e.name not in IGNORED]
    return sorted(visible, key=lambda entry: entry.name)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _type_of(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and not os.path.exists(entry.path):
        return f"a link to {os.readlink(entry.path)}, which does not exist"
    return "a folder" if entry.is_dir() else "a device or pipe"


def _has_signature(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not signature_problem(file.read(12))
    except OSError:
        return False  # without a suffix, an unreadable file is probably not an image
