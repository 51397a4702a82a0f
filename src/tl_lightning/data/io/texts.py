"""Readers for text files in class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from tl_lightning.data.domain import Split
from tl_lightning.data.io.folders import OnProblem, class_folders, raise_problem
from tl_lightning.data.io.labels import by_class, class_name
from tl_lightning.errors import DataError
from tl_lightning.utils.text import shorten

__all__ = ["as_texts", "read_text", "scan_texts", "text_files"]

SUFFIX = ".txt"
THREADS = 16


def text_files(folder: Path) -> list[Path]:
    """Return the text files directly in a folder, found by suffix and sorted by name."""
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.name.lower().endswith(SUFFIX)
            and not entry.name.startswith(".")
            and entry.is_file()
        ]
    return [folder / name for name in sorted(names)]


def scan_texts(
    folder: Path,
    *,
    setting: str = "data.root",
    on_problem: OnProblem = raise_problem,
    only: Sequence[str] | None = None,
) -> dict[str, list[Path]]:
    """Return the text files of each class folder in ``folder``, both sorted by name.

    Args:
        folder: Folder with one subfolder per class.
        setting: Configuration key named in error messages.
        on_problem: Called if there is only one class, or if classes have no texts (these are
            then left out).
        only: Names of the class folders, or None for all.

    Raises:
        DataError: If ``folder`` contains no class folders.
    """
    folders = class_folders(folder)
    if only is not None:
        folders = [path for path in folders if class_name(path.name) in only]
    found = by_class(folders, text_files)
    if not found:
        raise DataError(
            f"{folder} contains no class folders; expected {folder}/<class>/<text>.txt; "
            f"set {setting}=/the/right/folder"
        )
    empty = [name for name, files in found.items() if not files]
    if empty:
        on_problem(
            f"{len(empty)} of {len(found)} class folders in {folder} contain no texts "
            f"(*{SUFFIX}): {shorten(empty)}; add texts or remove the folders, or set "
            f"{setting}=/another/folder"
        )
        found = {name: files for name, files in found.items() if files}
    if len(found) == 1:
        on_problem(
            f"{folder} contains only one class folder, {next(iter(found))!r}; at least two "
            f"classes are required; add classes, or set {setting}=/another/folder"
        )
    return found


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        ValueError: If the file is unreadable, empty or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise ValueError(f"byte 0x{wrong:02x} at offset {error.start} is not UTF-8") from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise ValueError("empty")
    return text


def as_texts(split: Split, on_problem: OnProblem = raise_problem) -> Split:
    """Load the text files of a split; files that cannot be read are left out.

    Args:
        split: A split of paths; a split that is already loaded is returned unchanged.
        on_problem: Called if any file is unreadable, empty or not UTF-8.
    """
    if isinstance(split.samples, np.ndarray):
        return split
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(_text_or_problem, split.samples))
    pairs = zip(split.samples, results, strict=True)
    problems = [f"{path} ({problem})" for path, (_, problem) in pairs if problem]
    if problems:
        on_problem(
            f"{len(problems)} of {len(results)} texts cannot be used: {shorten(problems)}; fix or "
            "remove them: each text must be non-empty and in UTF-8"
        )
    texts = np.empty(len(results), dtype=object)
    texts[:] = [text for text, _ in results]
    kept = [k for k, (_, problem) in enumerate(results) if not problem]
    return replace(split, samples=texts).subset(kept)


def _text_or_problem(path: Path) -> tuple[str, str]:
    try:
        return read_text(Path(path)), ""
    except ValueError as error:
        return "", str(error)
