"""Texts in files: which, of which class, and what they say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from tl_lightning.data.domain import Split
from tl_lightning.data.io.folders import Complain, class_folders, refuse
from tl_lightning.errors import DataError

__all__ = ["as_texts", "read_text", "scan_texts", "text_files"]

SUFFIX = ".txt"
SHOWN = 5
THREADS = 16


def text_files(folder: Path) -> list[Path]:
    """Return the texts right in a folder, by suffix, sorted by name."""
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
    complain: Complain = refuse,
    only: Sequence[str] | None = None,
) -> dict[str, list[Path]]:
    """Return the texts of every class folder in ``folder``, both sorted by name; opens none.

    Args:
        folder: Holds one folder a class.
        setting: The key that the error names.
        complain: Called with the fault if there is only one class or one without texts, which is
            then left out.
        only: Names of the folders that are classes, or None for all.

    Raises:
        DataError: If there are no class folders.
    """
    inner = [path for path in class_folders(folder) if only is None or path.name in only]
    found = {path.name: text_files(path) for path in inner}
    if not found:
        raise DataError(
            f"{folder} holds no class folders; expected {folder}/<class>/<text>.txt; "
            f"type {setting}=/the/right/folder"
        )
    empty = [name for name, files in found.items() if not files]
    if empty:
        complain(
            f"{len(empty)} of {len(found)} class folders in {folder} hold no texts (*{SUFFIX}): "
            f"{_some(empty)}; fill or remove them, or type {setting}=/another/folder"
        )
        found = {name: files for name, files in found.items() if files}
    if len(found) == 1:
        complain(
            f"{folder} holds only one class folder, {next(iter(found))!r}; a classifier needs at "
            f"least two; add classes, or type {setting}=/another/folder"
        )
    return found


def read_text(path: Path) -> str:
    """Return what a file says, in UTF-8 with or without a byte-order mark.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise ValueError(f"byte 0x{wrong:02x} at offset {error.start} is no UTF-8") from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise ValueError("empty")
    return text


def as_texts(split: Split, complain: Complain = refuse) -> Split:
    """Return a split of files as one of their texts; those that cannot be read are left out.

    Args:
        split: Its ``pictures`` are paths; texts are left as they are.
        complain: Called with the fault if any is empty or no UTF-8.
    """
    if isinstance(split.pictures, np.ndarray):
        return split
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(_try, split.pictures))
    faults = [f"{path} ({fault})" for path, (_, fault) in zip(split.pictures, read, strict=True)
              if fault]  # fmt: skip
    if faults:
        complain(
            f"{len(faults)} of {len(read)} texts cannot be used: {_some(faults)}; mend or remove "
            "them: a text needs words, in UTF-8"
        )
    texts = np.empty(len(read), dtype=object)
    texts[:] = [text for text, _ in read]
    kept = [k for k, (_, fault) in enumerate(read) if not fault]
    return replace(split, pictures=texts).subset(kept)


def _try(path: Path) -> tuple[str, str]:
    try:
        return read_text(Path(path)), ""
    except ValueError as error:
        return "", str(error)


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
