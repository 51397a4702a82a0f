"""Class folders of images: scanning, signature checks and matching of class names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path

from tl_lightning.data.io.labels import by_class
from tl_lightning.errors import DataError
from tl_lightning.utils.text import shorten

__all__ = [
    "EXTENSIONS",
    "SPLIT_NAMES",
    "OnProblem",
    "check_signatures",
    "class_folders",
    "find_root",
    "folders_below",
    "has_splits",
    "image_files",
    "match_classes",
    "raise_problem",
    "real_paths",
    "scan_classes",
    "signature_problem",
    "split_folders",
]

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
)
# Created by archive tools and notebooks; never a class.
IGNORED = frozenset({"__MACOSX", ".ipynb_checkpoints"})
# Includes GIF, because suffixes are often wrong and Pillow decodes by content.
SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"GIF8",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
    *(b"P%d" % kind for kind in range(1, 7)),
)
THREADS = 16
#: Accepted folder names of each split, in lower case; in tables, too.
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip

#: Callback for a recoverable problem: training raises it, a data check records it.
OnProblem = Callable[[str], None]


def raise_problem(problem: str) -> None:
    """Raise ``problem`` as a DataError."""
    raise DataError(problem)


def class_folders(folder: Path) -> list[Path]:
    """Return the possible class folders in ``folder``, sorted; empty if it is not a folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in IGNORED
    )


def split_folders(root: Path, setting: str, on_problem: OnProblem) -> dict[str, Path]:
    """Return the folders of the splits in ``root``; report several of one split."""
    found = _splits(root)
    for split, paths in found.items():
        if len(paths) > 1:
            on_problem(
                f"{root} has several folders of the split {split}: "
                f"{' and '.join(path.name for path in paths)}; keep one of them, or set "
                f"{setting}=/another/folder"
            )
    return {split: paths[0] for split, paths in found.items()}


def has_splits(root: Path) -> bool:
    """Return whether the folders in ``root`` are splits and not classes.

    Those of a folder for testing a trained model may lack ``train``.
    """
    found, inner = _splits(root), class_folders(root)
    if any(map(class_folders, found.get("train", ()))):
        return True
    only_splits = bool(inner) and sum(map(len, found.values())) == len(inner)
    return only_splits and ("train" in found or any(map(class_folders, inner)))


def _splits(root: Path) -> dict[str, list[Path]]:
    """Return the folders in ``root`` that are named as splits, by split: train first, then val."""
    found: dict[str, list[Path]] = {}
    for path in class_folders(root):
        if split := SPLIT_NAMES.get(path.name.lower()):
            found.setdefault(split, []).append(path)
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def folders_below(folder: Path) -> list[Path]:
    """Return ``folder`` and all folders below it, each once even if links form a loop."""
    found: dict[Path, Path] = {}
    waiting = [folder] if folder.is_dir() else []
    while waiting:
        path = waiting.pop()
        if found.setdefault(path.resolve(), path) is path:
            waiting += class_folders(path)
    return sorted(found.values())


def real_paths(paths: Sequence[Path]) -> list[str]:
    """Return the paths without symbolic links; a folder is resolved once, not for every file."""
    folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    files = (os.path.join(folders[path.parent], path.name) for path in paths)
    return [os.path.realpath(file) if os.path.islink(file) else file for file in files]


def scan_classes(
    folder: Path, *, setting: str = "data.root", on_problem: OnProblem = raise_problem
) -> dict[str, list[Path]]:
    """Return the images of each class folder in ``folder``, both sorted by name.

    Images are found by suffix (case-insensitive) and not opened; see :func:`check_signatures`.

    Args:
        folder: Folder with one subfolder per class.
        setting: Configuration key named in error messages.
        on_problem: Called if there is only one class, or if classes have no images (these are
            then left out).

    Raises:
        DataError: If ``folder`` contains no class folders.
    """
    found = by_class(class_folders(folder), image_files)
    if not found:
        raise DataError(
            f"{folder} contains no class folders; expected {folder}/<class>/<image>.jpg; "
            f"set {setting}=/the/right/folder"
        )
    empty = [name for name, images in found.items() if not images]
    if empty:
        on_problem(
            f"{len(empty)} of {len(found)} class folders in {folder} contain no images "
            f"({', '.join(sorted(EXTENSIONS))}): {shorten(empty)}; add images or remove the "
            f"folders, or set {setting}=/another/folder"
        )
        found = {name: images for name, images in found.items() if images}
    if len(found) == 1:
        on_problem(
            f"{folder} contains only one class folder, {next(iter(found))!r}; at least two "
            f"classes are required; add classes, or set {setting}=/another/folder"
        )
    return found


def check_signatures(paths: Sequence[Path], *, setting: str = "data.root") -> None:
    """Check the first bytes of every file for an image signature.

    This takes about a second for 20,000 files, and avoids a failure in the middle of an epoch.
    Truncated images are not detected; decoding them raises an error that names the file.

    Raises:
        DataError: If any file is empty, unreadable or not an image; names the first few.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        problems = list(pool.map(_signature_problem, paths))
    broken = [
        f"{path} ({problem})" for path, problem in zip(paths, problems, strict=True) if problem
    ]
    if broken:
        raise DataError(
            f"{len(broken)} of {len(paths)} files are not images: {shorten(broken)}; "
            f"fix or remove them, or set {setting}=/another/folder"
        )


def match_classes(
    source_classes: Sequence[str],
    target_classes: Sequence[str],
    *,
    where: str = "the target",
    setting: str = "data.target.root",
    on_problem: OnProblem = raise_problem,
    otherwise: str = "",
    may_miss: bool = False,
    may_add: bool = False,
) -> list[int]:
    """Return the source index of each target class, matched by name; -1 if it is unknown.

    Numbering each domain's folders separately would shift all later indices if one is missing.
    If the names differ, ``on_problem`` is called with a message that lists missing, extra and
    similar names, and ends with ``otherwise``, an alternative. With ``may_miss``, only extra
    names are a problem. With ``may_add`` they are none, and get the index after the last class.

    >>> match_classes(["cat", "dog"], ["dog", "cat"])
    [1, 0]
    >>> match_classes(["cat", "dog"], ["dog", "fox"], may_miss=True, may_add=True)
    [1, 2]
    """
    source, target = list(source_classes), list(target_classes)
    missing = [name for name in source if name not in target]
    extra = [name for name in target if name not in source]
    if (extra and not may_add) or (missing and not may_miss):
        another = "/another/folder" if setting.endswith("root") else "<another>"
        on_problem(
            f"the classes of {where} differ: {len(source)} expected, {len(target)} found; "
            f"missing: {shorten(missing) or 'none'}; "
            f"extra: {shorten([_with_nearest(name, missing) for name in extra]) or 'none'}; "
            f"rename or remove folders so that the names match, or set {setting}={another}"
            + (f", or {otherwise}" if otherwise else "")
        )
    unknown = len(source) if may_add else -1
    return [source.index(name) if name in source else unknown for name in target]


def find_root(
    root: str | Path,
    candidates: Sequence[str],
    what: str,
    accepts: Callable[[Path], bool],
    *,
    setting: str = "data.root",
    otherwise: str = "",
) -> Path:
    """Return the first of ``root`` and ``root/<candidate>`` that ``accepts`` returns True for.

    Args:
        root: The dataset folder or its parent.
        candidates: Common names of the dataset folder.
        what: The dataset and its layout, for the error message.
        accepts: Predicate for the dataset folder.
        setting: Configuration key named in the error message.
        otherwise: Alternative setting for the error message (such as a download).

    Raises:
        DataError: If there is no such folder; lists every path that was tried.
    """
    base = Path(root).expanduser().absolute()
    # A candidate may be ../name; normpath makes the paths in the error message readable.
    tried = [Path(os.path.normpath(base / name)) for name in (".", *candidates)]
    for path in tried:
        if path.is_dir() and accepts(path):
            return path
    states = (f"{path} ({'other files' if path.is_dir() else 'absent'})" for path in tried)
    hint = f", or {otherwise}" if otherwise else ""
    raise DataError(
        f"{what} not found with {setting}={root}; tried: {', '.join(states)}; "
        f"set {setting}=/the/right/folder{hint}"
    )


def image_files(folder: Path) -> list[Path]:
    """Return the images directly in a folder, found by suffix and sorted by name."""
    # scandir avoids one stat call per file, which is slow for 20,000 files.
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in EXTENSIONS
            and entry.is_file()
        ]
    return [folder / name for name in sorted(names)]


def _signature_problem(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        return error.strerror or str(error)
    return signature_problem(start)


def signature_problem(start: bytes) -> str:
    """Return why a file with these first 12 bytes is not an image; empty if it may be one.

    >>> signature_problem(b"BM..."), signature_problem(b""), signature_problem(b"hello")
    ('', '0 bytes', "begins with b'hello'")
    """
    if not start:
        return "0 bytes"
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return "" if webp or start.startswith(SIGNATURES) else f"begins with {start!r}"


def _with_nearest(name: str, choices: Sequence[str]) -> str:
    close = get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"{name} (did you mean {close[0]}?)" if close else name
