"""One column of a table, read row by row, so that long tables need little memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.data.io.tables import PARQUET, delimiter_of, long_cells
from tl_lightning.errors import ConfigError, DataError, nearest

__all__ = ["cells", "column_of"]

#: Names of columns that are found without ``column=``, by what the model classifies.
NAMES = {
    "images": ("path", "image", "file", "filename", "file_name", "image_path"),
    "texts": ("text", "sentence", "review"),
}
#: Rows of a Parquet file that are decoded at once.
ROWS = 1024


def cells(path: Path, column: str | None, kind: str) -> Iterator[Any]:
    """Return the cells of a column; the table's columns are checked at once.

    Args:
        path: A CSV, TSV or Parquet file.
        column: Name of the column; None finds it by name.
        kind: ``images`` or ``texts``.

    Raises:
        DataError: If the table cannot be read, is empty or has no such column.
    """
    found = _parquet(path, column, kind) if path.suffix.lower() in PARQUET else (
        _csv(path, column, kind)
    )  # fmt: skip
    next(found)
    return found


def column_of(path: Path, header: Sequence[str], column: str | None, kind: str) -> str:
    """Return the column with the samples."""
    if column is not None:
        if column not in header:
            raise ConfigError(
                f"column={column} is not in input={path} (it has {', '.join(header)}); "
                f"{nearest(column, header)}"
            )
        return column
    lower = {name.lower(): name for name in reversed(header)}
    found = next((lower[name] for name in NAMES[kind] if name in lower), None)
    if found is None and len(header) > 1:
        raise ConfigError(
            f"input={path} has the columns {', '.join(header)}, none of them named "
            f"{', '.join(NAMES[kind])}; set column=<name>"
        )
    return header[0] if found is None else found


def _csv(path: Path, column: str | None, kind: str) -> Iterator[Any]:
    """Yield None once the header is checked, then the cells."""
    try:
        with long_cells(), path.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            if not first:
                raise DataError(f"input={path} is empty; its first line must name the columns")
            delimiter = delimiter_of(path, first, NAMES[kind])
            header = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))]
            index = header.index(column_of(path, header, column, kind))
            yield None
            for row in csv.reader(file, delimiter=delimiter, strict=True):
                if row:
                    yield row[index] if index < len(row) else None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read input={path}: {error}; save it as UTF-8 CSV") from error


def _parquet(path: Path, column: str | None, kind: str) -> Iterator[Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"input={path} requires the package pyarrow; run pip install 'tl_lightning[parquet]', "
            "or save the table as CSV"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            name = column_of(path, file.schema_arrow.names, column, kind)
            yield None
            for batch in file.iter_batches(ROWS, columns=[name]):
                yield from batch.column(0).to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"cannot read input={path}: {reason}; write the table again") from error
