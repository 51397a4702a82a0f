"""What to predict: the samples that an input names, one after another."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tl_lightning.data.io.folders import EXTENSIONS, IGNORED
from tl_lightning.data.io.listed import ListedFiles
from tl_lightning.data.io.tables import PARQUET
from tl_lightning.data.io.texts import SUFFIX, read_text
from tl_lightning.data.io.vectors import read_vectors
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.columns import cells
from tl_lightning.inference.predictor import Kind

__all__ = ["Sample", "Source", "from_input", "from_python", "from_texts"]

TABLES = (".csv", ".tsv", *PARQUET)
LISTS = (".txt", ".lst", ".list")
#: Suffixes of the files that are taken from a folder, by what the model classifies.
TAKEN = {"images": EXTENSIONS | {".gif"}, "texts": frozenset({SUFFIX})}
FORMS = {
    "images": "<image, folder, 'glob*.jpg', list.txt, table.csv, table.parquet or ->",
    "texts": "<texts.txt, folder, 'glob*.txt', table.csv, table.parquet or ->, or text=<text>",
    "vectors": "<vectors.npz, .npy, .mat or .svmlight>",
}


class Sample(NamedTuple):
    """One input.

    Attributes:
        name: What it is called in the output: a path as it was given, a text, or a row number.
        value: A path, the bytes of a file, pixels, a text or a vector.
        problem: Why there is nothing to read; empty if it can be tried.
    """

    name: str
    value: Any
    problem: str = ""


@dataclass(frozen=True)
class Source:
    """The samples of an input, in an order that depends on the input alone.

    Attributes:
        samples: Read once.
        total: Their number; None if it is not known before they are read.
    """

    samples: Iterable[Sample]
    total: int | None = None


def from_input(given: str, kind: Kind, column: str | None = None) -> Source:
    """Return the samples of a file, folder, glob, list, table or ``-`` for the standard input.

    Args:
        given: As on the command line.
        kind: What the model classifies.
        column: Column of a table; None finds it by name.

    Raises:
        DataError: If the input does not exist, is empty or not of a supported form.
    """
    path = _place(given, kind)
    if column is not None and (given == "-" or path.suffix.lower() not in TABLES):
        raise ConfigError(f"column={column} has no effect on input={given}; remove column")
    if given == "-":
        if kind == "vectors":
            raise ConfigError(f"input=- cannot contain vectors; set input={FORMS[kind]}")
        return Source(_listed(_stdin(), kind, Path()))
    if kind == "vectors":
        return _vectors(path)
    if path.is_dir():
        files = [_file(file) for file in _below(path, TAKEN[kind])]
        return _some(files, given, f"contains no {kind} ({', '.join(sorted(TAKEN[kind]))})", kind)
    if not path.exists():
        if not glob.has_magic(str(path)):
            raise DataError(f"input={given} not found; set input={FORMS[kind]}")
        found = sorted(file for file in glob.iglob(str(path), recursive=True) if _is_file(file))
        return _some([_file(Path(file)) for file in found], given, "matches no files", kind)
    if path.suffix.lower() in TABLES:
        values = cells(path, column, kind)
        return Source(_from_cells(values, kind, path.parent))
    if kind == "texts" or path.suffix.lower() in LISTS:
        lines = _lines(path, kind, given)
        return _some(list(_listed(lines, kind, path.parent)), given, "is empty", kind)
    return Source([_file(path)], 1)


def _place(given: str, kind: Kind) -> Path:
    """Return the path of an input, which may be a pattern; DataError if it cannot be one."""
    try:
        path = Path(given).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, null characters
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"input={given[:80]} cannot be read: {reason}; set input={FORMS[kind]}"
        ) from error
    return path


def from_texts(texts: Iterable[str]) -> Source:
    """Return texts as samples; empty ones cannot be read."""
    samples = [_text(text) for text in texts]
    return Source(samples, len(samples))


def from_python(inputs: Any, kind: Kind, column: str | None = None) -> Source:
    """Return the samples of anything that :func:`tl_lightning.predict` accepts.

    Args:
        inputs: A path as for :func:`from_input`, or samples.
        kind: What the model classifies.
        column: Column of a table; None finds it by name.
    """
    if isinstance(inputs, str | Path):
        if kind == "texts" and not _exists(inputs):
            raise DataError(f"{inputs!r} is not a file or folder; pass [text] for a single text")
        return from_input(str(inputs), kind, column)
    if kind == "vectors":
        rows = inputs if hasattr(inputs, "shape") else np.asarray(list(inputs))
        if len(rows.shape) != 2:
            raise DataError(
                f"vectors must have the shape (samples, features), got {tuple(rows.shape)}"
            )
        return _rows(rows)
    if kind == "images" and (hasattr(inputs, "getexif") or getattr(inputs, "ndim", 0) == 3):
        inputs = [inputs]  # one image
    total = len(inputs) if hasattr(inputs, "__len__") else None
    return Source(_each(inputs, kind), total)


def _each(inputs: Iterable[Any], kind: Kind) -> Iterator[Sample]:
    for number, one in enumerate(inputs):
        if kind == "texts":
            yield _text(one) if isinstance(one, str) else Sample(
                str(number), one, f"a text is expected, got {type(one).__name__}"
            )  # fmt: skip
        elif isinstance(one, str | Path):
            yield _file(Path(one).expanduser(), str(one))
        else:
            yield Sample(str(number), one)


def _text(text: str) -> Sample:
    return Sample(text, text, "" if text.strip() else "the text is empty")


def _file(path: Path, name: str | None = None) -> Sample:
    return Sample(str(path) if name is None else name, path)


def _is_file(file: str) -> bool:
    return os.path.isfile(file)


def _exists(given: str | Path) -> bool:
    try:
        path = Path(given).expanduser()
        return str(given) == "-" or path.exists() or glob.has_magic(str(path))
    except OSError:  # a text that is too long for a path
        return False


def _some(samples: list[Sample], given: str, problem: str, kind: Kind) -> Source:
    if not samples:
        raise DataError(f"input={given} {problem}; set input={FORMS[kind]}")
    return Source(samples, len(samples))


def _below(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Yield the files below a folder with these suffixes, sorted; hidden ones are left out."""
    seen: set[tuple[int, int]] = set()

    def problem(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for place, folders, names in os.walk(folder, onerror=problem, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in IGNORED
        )
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(place, name)


def _lines(path: Path, kind: Kind, given: str) -> Iterator[str]:
    """Return the lines of a file: texts in UTF-8, or paths."""
    try:
        text = read_text(path) if kind == "texts" else os.fsdecode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read input={given}: {error}; set input={FORMS[kind]}") from error
    # Not str.splitlines, which also splits at characters that may be part of a text.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return iter(text.removesuffix("\n").split("\n") if text else [])


def _stdin() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r"))


def _listed(lines: Iterable[str], kind: Kind, folder: Path) -> Iterator[Sample]:
    if kind == "texts":
        yield from (_text(line) for line in lines)
        return
    yield from _from_cells((line for line in lines if line.strip()), kind, folder)


def _from_cells(values: Iterable[Any], kind: Kind, folder: Path) -> Iterator[Sample]:
    """Yield the samples of cells; relative paths are searched in ``folder``, then in the current.

    A cell that contains bytes is an encoded image.
    """
    files = ListedFiles(list(dict.fromkeys((folder, Path()))))
    for number, value in enumerate(values):
        if isinstance(value, dict):  # as data sets of encoded images store them
            value = value.get("bytes") or value.get("path")
        if value is None or isinstance(value, bytes):
            yield Sample(str(number), value, "" if value else "the cell is empty")
        elif kind == "texts":
            yield _text(str(value))
        else:
            yield _found(files, str(value))


def _found(files: ListedFiles, name: str) -> Sample:
    if not name.strip():
        return Sample(name, None, "the path is empty")
    try:
        found = files.find(os.path.expanduser(name))
    except (OSError, ValueError) as error:  # such as a name that is too long
        return Sample(name, None, str(error))
    if len(found) == 1:
        return Sample(name, found[0])
    problem = f"{len(found)} files are possible: {found[0]}, {found[1]}" if found else "not found"
    return Sample(name, None, problem)


def _vectors(path: Path) -> Source:
    if path.suffix.lower() != ".npy":
        return _rows(read_vectors(path, "input").x)
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"input={path} cannot be read as .npy: {error}") from error
    if rows.ndim != 2 or not len(rows):
        raise DataError(f"input={path} must have the shape (samples, features), got {rows.shape}")
    return _rows(rows)


def _rows(rows: Any) -> Source:
    if not np.issubdtype(rows.dtype, np.number):
        raise DataError(f"vectors must be numbers, got {rows.dtype}; set input={FORMS['vectors']}")
    total = int(rows.shape[0])
    return Source((Sample(str(row), rows[row : row + 1]) for row in range(total)), total)
