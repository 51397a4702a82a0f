"""Folders of pictures: which classes, which files, which split. No dataset's name stands here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path

from tl_lightning.errors import DataError

__all__ = [
    "EXTENSIONS",
    "Complain",
    "check_signatures",
    "class_folders",
    "find_root",
    "match_classes",
    "picture_files",
    "refuse",
    "scan_classes",
    "signature_fault",
]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
# Left behind by archivers and notebooks: never a class.
IGNORED = frozenset({"__MACOSX", ".ipynb_checkpoints"})
# GIF as well: the suffix often lies, and any of these can be decoded whatever the suffix says.
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
SHOWN = 5
THREADS = 16

#: What to do with a fault that leaves something to go on with: a run refuses, a check notes it.
Complain = Callable[[str], None]


def refuse(fault: str) -> None:
    """Raise the fault as a DataError."""
    raise DataError(fault)


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in ``folder`` that may be classes, by name; none if it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in IGNORED
    )


def scan_classes(
    folder: Path, *, setting: str = "data.root", complain: Complain = refuse
) -> dict[str, list[Path]]:
    """Return the pictures of every class folder in ``folder``, both sorted by name.

    Pictures are found by suffix, whatever its case; they are not opened (:func:`check_signatures`
    does that).

    Args:
        folder: Holds one folder a class.
        setting: The key that the error names.
        complain: Called with the fault if there is only one class or one without pictures, which
            is then left out.

    Raises:
        DataError: If there are no class folders.
    """
    found = {path.name: picture_files(path) for path in class_folders(folder)}
    if not found:
        raise DataError(
            f"{folder} holds no class folders; expected {folder}/<class>/<picture>.jpg; "
            f"type {setting}=/the/right/folder"
        )
    empty = [name for name, pictures in found.items() if not pictures]
    if empty:
        complain(
            f"{len(empty)} of {len(found)} class folders in {folder} hold no pictures "
            f"({', '.join(sorted(EXTENSIONS))}): {_some(empty)}; fill or remove them, or type "
            f"{setting}=/another/folder"
        )
        found = {name: pictures for name, pictures in found.items() if pictures}
    if len(found) == 1:
        complain(
            f"{folder} holds only one class folder, {next(iter(found))!r}; a classifier needs at "
            f"least two; add classes, or type {setting}=/another/folder"
        )
    return found


def check_signatures(paths: Sequence[Path], *, setting: str = "data.root") -> None:
    """Read the first bytes of every file and refuse the folder if some are not pictures.

    This costs a second for 20,000 files; the same fault met in an epoch's middle costs the run.
    It does not see truncated pictures: they fail, by name, when they are decoded.

    Raises:
        DataError: If any file is empty, unreadable or of another kind, naming the first few.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        faults = list(pool.map(_signature_fault, paths))
    broken = [f"{path} ({fault})" for path, fault in zip(paths, faults, strict=True) if fault]
    if broken:
        raise DataError(
            f"{len(broken)} of {len(paths)} files are not pictures: {_some(broken)}; "
            f"mend or remove them, or type {setting}=/another/folder"
        )


def match_classes(
    source_classes: Sequence[str],
    target_classes: Sequence[str],
    *,
    where: str = "the target",
    setting: str = "data.target.root",
    complain: Complain = refuse,
) -> list[int]:
    """Return the source's index of every target class, matched by name; -1 for an unknown one.

    Numbering each domain's folders by itself shifts every later index as soon as one is missing.

    If the two differ, ``complain`` is called with what is missing, what is extra and the nearest
    names.

    >>> match_classes(["cat", "dog"], ["dog", "cat"])
    [1, 0]
    """
    source, target = list(source_classes), list(target_classes)
    missing = [name for name in source if name not in target]
    extra = [name for name in target if name not in source]
    if missing or extra:
        another = "/another/folder" if setting.endswith("root") else "<another>"
        complain(
            f"the classes of {where} differ: {len(source)} expected, {len(target)} found; "
            f"missing: {_some(missing) or 'none'}; "
            f"extra: {_some([_with_nearest(name, missing) for name in extra]) or 'none'}; "
            f"rename or remove folders so that the names agree, or type {setting}={another}"
        )
    return [source.index(name) if name in source else -1 for name in target]


def find_root(
    root: str | Path,
    candidates: Sequence[str],
    what: str,
    accepts: Callable[[Path], bool],
    *,
    setting: str = "data.root",
    otherwise: str = "",
) -> Path:
    """Return the first of ``root`` and ``root/<candidate>`` that ``accepts`` says yes to.

    Args:
        root: The dataset's folder or the one above it.
        candidates: Usual names of the dataset's folder.
        what: What is looked for, with its layout, for the error.
        accepts: Whether a folder is it.
        setting: The key that the error names.
        otherwise: Another way out, for the error (such as a download).

    Raises:
        DataError: If none is, listing every path tried.
    """
    base = Path(root).expanduser().absolute()
    # normpath: a candidate may be ../name, and the error should show where that is.
    tried = [Path(os.path.normpath(base / name)) for name in (".", *candidates)]
    for path in tried:
        if path.is_dir() and accepts(path):
            return path
    states = (f"{path} ({'other files' if path.is_dir() else 'absent'})" for path in tried)
    way_out = f", or {otherwise}" if otherwise else ""
    raise DataError(
        f"{what} not found with {setting}={root}; tried: {', '.join(states)}; "
        f"type {setting}=/the/right/folder{way_out}"
    )


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures right in a folder, by suffix, sorted by name."""
    # scandir once a class: is_file() on 20,000 paths would be a system call each.
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in EXTENSIONS
            and entry.is_file()
        ]
    return [folder / name for name in sorted(names)]


def _signature_fault(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        return error.strerror or str(error)
    return signature_fault(start)


def signature_fault(start: bytes) -> str:
    """Return why a file with these first 12 bytes is no picture; empty if it may be one.

    >>> signature_fault(b"BM..."), signature_fault(b""), signature_fault(b"hello")
    ('', '0 bytes', "begins with b'hello'")
    """
    if not start:
        return "0 bytes"
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return "" if webp or start.startswith(SIGNATURES) else f"begins with {start!r}"


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _with_nearest(name: str, choices: Sequence[str]) -> str:
    close = get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"{name} (did you mean {close[0]}?)" if close else name
