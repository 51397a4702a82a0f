"""Reader for CSV, TSV and Parquet tables; every row keeps its position for error messages."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tl_lightning.data.io.folders import EXTENSIONS, OnProblem
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.text import shorten

__all__ = [
    "Row", "delimiter_of", "long_cells", "read_rows", "rows_with_labels", "table_cells",
    "wanted_columns",
]  # fmt: skip

DELIMITERS = (",", ";", "\t", "|")
PARQUET = (".parquet", ".pq")
#: Maximum cell length in characters; the default of the csv module is too small for texts.
LONGEST = 1 << 26


@contextlib.contextmanager
def long_cells() -> Iterator[None]:
    """Let the csv module read long cells."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@dataclass(frozen=True)
class Row:
    """One row: its position (``line 3`` of a text file, ``row 3`` of Parquet) and its cells."""

    place: str
    cells: dict[str, str]


class _Sample(Protocol):
    """A usable row; ``label`` is empty without a label, and ``split`` None without a split."""

    @property
    def place(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def split(self) -> str | None: ...


S = TypeVar("S", bound=_Sample)


def rows_with_labels(rows: Sequence[S], domain: str, table: Path, on_problem: OnProblem) -> list[S]:
    """Return the rows that can be used, judged by their labels.

    All rows of the source need labels. For the target, all rows of a split have labels, or none.

    Args:
        rows: All rows of the domain.
        domain: ``source`` or ``target``.
        table: The table, for messages.
        on_problem: Called if there are rows that cannot be used.
    """
    if domain == "source":
        left_out = [row for row in rows if not row.label]
        what, advice = "an empty label", "fix or remove them"
    else:
        labelled = {row.split or "train" for row in rows if row.label}
        left_out = [row for row in rows if not row.label and (row.split or "train") in labelled]
        what = "an empty label next to labelled rows of the same domain and split"
        advice = (
            "fill in or remove all labels of the split, put labelled rows in the split test, or "
            "set data.target.labels=none"
        )
    if left_out:
        places = shorten([row.place for row in left_out])
        on_problem(f"{table} has {len(left_out)} row(s) with {what}: {places}; {advice}")
    removed = set(map(id, left_out))
    return [row for row in rows if id(row) not in removed]


def read_rows(
    path: Path, delimiter: str | None, wanted: Sequence[str], setting: str = "data.table"
) -> tuple[list[str], list[Row]]:
    """Read the column names and rows of a table; blank lines are skipped.

    Args:
        path: A Parquet file (by suffix) or a text file in UTF-8, with or without a byte-order mark.
        delimiter: One character, or None to detect it from the first line.
        wanted: Expected columns, used to detect the delimiter. Of a list of images and labels
            without column names they are the names, the path first.
        setting: Configuration key of the path, for errors.

    Raises:
        DataError: If the file is missing or corrupt, or a row has the wrong number of cells.
    """
    if not path.is_file():
        state = "a folder" if path.is_dir() else "absent"
        raise DataError(f"{setting}={path} is {state}; set {setting}=/my/list.csv")
    if path.suffix.lower() in PARQUET:
        return _read_parquet(path)
    if delimiter is not None and len(delimiter) != 1:
        raise DataError(
            f"data.delimiter={delimiter!r} must be one character; set data.delimiter=null to "
            "detect it from the first line"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the table {path}: {error}; save it as a UTF-8 text file"
        ) from error
    header = next((line for line in text.splitlines() if line.strip()), "")
    if not header:
        raise DataError(f"the table {path} is empty; its first line must name the columns")
    if len(wanted) > 1 and delimiter is None and _LISTED.fullmatch(header.strip()):
        return list(wanted[:2]), _read_list(path, text, wanted)
    return _read_text(path, text, delimiter or delimiter_of(path, header, wanted))


#: A line of a list without column names: an image and its label, as in ``photo/dog/1.jpg 3``.
_LISTED = re.compile(
    rf"(.*?({'|'.join(map(re.escape, sorted(EXTENSIONS)))}))[\s,;|]\s*([^\s,;|].*)", re.IGNORECASE
)


def _read_list(path: Path, text: str, wanted: Sequence[str]) -> list[Row]:
    """Return the rows of a list of images and labels; ``wanted`` starts with their columns."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        found = _LISTED.fullmatch(line.strip())
        if found:
            cells = (found[1].strip("\"'"), found[3].strip("\"'"))
            rows.append(Row(f"line {number}", dict(zip(wanted, cells, strict=False))))
        elif line.strip():
            raise DataError(
                f"line {number} of {path} is {line.strip()!r}, not an image and its label as in "
                "the lines before; fix the line, or name the columns in the first line"
            )
    return rows


def table_cells(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Row],
    columns: Mapping[str, str | Sequence[str] | None],
    required: Sequence[str],
    classes: bool = True,
) -> list[dict[str, str | None]]:
    """Return the cells of every row by what they mean; None for columns that the table lacks.

    Args:
        path: The table, for messages.
        header: Its columns.
        rows: Its rows.
        columns: Name of the column of each meaning; several columns of 0 and 1 for ``label``, one
            for each class.
        required: Meanings whose column must exist; others only if they were renamed.
        classes: Whether labels are classes; of other ones, several columns are not joined, and
            ``label`` is left out.

    Raises:
        DataError: If there is no such column, or a row has several classes.
    """
    names = {name: column for name, column in columns.items() if column is not None}
    for name, column in names.items():
        for one in [column] if isinstance(column, str) else column:
            if one not in header and (name in required or one != name):
                raise DataError(_no_column(path, header, rows, name, one))
    return [
        {
            name: row.cells.get(column) if isinstance(column, str) else _one_hot(path, row, column)
            for name, column in names.items()
            if classes or name != "label"
        }
        for row in rows
    ]


def wanted_columns(columns: Mapping[str, str | Sequence[str] | None]) -> list[str]:
    """Return the names of all columns that are read."""
    lists = [[one] if isinstance(one, str) else list(one or ()) for one in columns.values()]
    return [column for names in lists for column in names]


def _no_column(
    path: Path, header: Sequence[str], rows: Sequence[Row], name: str, column: str
) -> str:
    advice = f"set data.columns.{name}=<the column's name>"
    cells = {one: {row.cells[one].strip() for row in rows} for one in header}
    binary = [one for one, found in cells.items() if found and found <= set(_BINARY)]
    if name == "label" and len(binary) > 1:
        advice = f"set data.columns.label=[{','.join(binary)}], which contain only 0 and 1"
    return (
        f"{path} has no column {column!r} (it has {', '.join(header)}); {nearest(column, header)}; "
        f"{advice}; the first line must name the columns"
    )


#: Cells of columns that contain a class each.
_BINARY = {"0": False, "1": True, "0.0": False, "1.0": True, "": False}


def _one_hot(path: Path, row: Row, columns: Sequence[str]) -> str:
    """Return the only column that contains 1; empty if there is none."""
    values = {column: _BINARY.get(row.cells[column].strip()) for column in columns}
    chosen = [column for column, value in values.items() if value]
    if None in values.values() or len(chosen) > 1:
        shown = ", ".join(f"{column}={row.cells[column]}" for column in columns)
        raise DataError(
            f"{row.place} of {path} has {shown}, but of the columns in data.columns.label one must "
            "be 1 and the others 0; fix the line, or set data.columns.label=<the column's name>"
        )
    return chosen[0] if chosen else ""


def delimiter_of(path: Path, header: str, wanted: Sequence[str]) -> str:
    """Return the delimiter that yields the most wanted columns; ties go to the most columns."""
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"

    def score(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip() for cell in next(csv.reader([header], delimiter=delimiter))]
        return len(set(cells) & set(wanted)), len(cells)

    return max(DELIMITERS, key=score)


def _read_text(path: Path, text: str, delimiter: str) -> tuple[list[str], list[Row]]:
    # Not splitlines(), which also splits at characters that may occur in file names.
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_header(path, header)
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"line {reader.line_num} of {path} has {len(cells)} cells, but line 1 names "
                    f"{len(header)} columns ({', '.join(header)}); fix the line, put cells that "
                    f"contain {delimiter!r} in double quotes, or set data.delimiter=<character>"
                )
            place = f"line {reader.line_num}"
            rows.append(Row(place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num} of {path} cannot be read: {error}; fix its quotes"
        ) from error
    return header, rows


def _read_parquet(path: Path) -> tuple[list[str], list[Row]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"data.table={path} requires the package pyarrow; run "
            "pip install 'tl_lightning[parquet]', or save the table as CSV"
        ) from error
    try:
        table: Any = parquet.read_table(path)
        header = [str(name) for name in table.column_names]
        values = table.to_pylist()
    except Exception as error:  # damaged files raise many kinds, UnicodeDecodeError among them
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(
            f"cannot read the table {path}: {reason}; write it again, or save it as CSV"
        ) from error
    _check_header(path, header)
    rows = [
        Row(f"row {number}", {name: _cell(row[name]) for name in header})
        for number, row in enumerate(values, 1)
    ]
    return header, rows


def _cell(value: Any) -> str:
    """Return a cell as text; integers that became fractions next to missing values as integers.

    >>> _cell(2.0), _cell(None), _cell("2.0")
    ('2', '', '2.0')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _check_header(path: Path, header: Sequence[str]) -> None:
    duplicates = [name for name in header if header.count(name) > 1]
    if duplicates:
        raise DataError(f"{path} has several columns named {duplicates[0]!r}; rename all but one")
