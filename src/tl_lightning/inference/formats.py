"""Files of predictions: CSV, JSON lines and Parquet, encoded chunk by chunk."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tl_lightning.config.schema import WITHOUT_CLASSES, TaskKind
from tl_lightning.errors import ConfigError
from tl_lightning.utils.text import csv_cell

if TYPE_CHECKING:
    from tl_lightning.inference.predictions import Prediction

__all__ = ["FORMATS", "Format", "format_of"]

#: Rows of a group of a Parquet file, also if the command was interrupted.
GROUP = 8192


class Format(Protocol):
    """Encodes predictions; the parts joined are the draft of the file.

    Attributes:
        unknown: Whether the model recognises samples of no class, which adds a column.
        values: Names of the numbers that are predicted besides a class, or in its place.
        kind: Kind of the model's task, one of :data:`.TaskKind`.
    """

    unknown: bool
    values: tuple[str, ...]
    kind: TaskKind

    def header(self) -> bytes:
        """Return the first bytes of the draft."""
        ...

    def encoded(self, rows: Sequence[Prediction]) -> bytes:
        """Return the bytes of rows."""
        ...

    def finished(self, draft: Path) -> Path:
        """Return the complete file, in the folder of the draft."""
        ...


class Csv:
    """One line per sample; cells that a spreadsheet would execute start with ``'``."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.unknown = False
        self.values: tuple[str, ...] = ()
        self.kind: TaskKind = "classification"

    def header(self) -> bytes:
        """Return the names of the columns."""
        if self.kind in WITHOUT_CLASSES:
            several = ("labels",) if self.kind == "multi_label" else ()
            names = ("sample", *several, *self.values, "error")
            cells = io.StringIO(newline="")
            csv.writer(cells).writerow([csv_cell(name) for name in names])
            return _utf8(cells.getvalue())
        more = (f"{name}_{k}" for k in range(2, self.top + 1) for name in ("class", "probability"))
        unknown = ("unknown",) if self.unknown else ()
        names = (
            "sample", "class", "probability", *more, "novelty", "abstained", *unknown,
            *self.values, "error",
        )  # fmt: skip
        return f"{','.join(names)}\r\n".encode()

    def encoded(self, rows: Sequence[Prediction]) -> bytes:
        """Return the lines of rows."""
        table = io.StringIO(newline="")
        csv.writer(table).writerows(map(self._cells, rows))
        return _utf8(table.getvalue())

    def _cells(self, row: Prediction) -> list[str]:
        found = dict(row.values)
        digits = 9 if self.kind in WITHOUT_CLASSES else 6  # nine give back any float32
        numbers = ["" if row.error else f"{found[name]:.{digits}g}" for name in self.values]
        if self.kind in WITHOUT_CLASSES:
            several = [csv_cell(row.label or "")] if self.kind == "multi_label" else []
            return [csv_cell(row.sample), *several, *numbers, csv_cell(row.error)]
        cells = []
        for k in range(self.top):
            name, probability = row.top[k] if k < len(row.top) else ("", None)
            hidden = k == 0 and row.abstained
            cells += ["" if hidden else csv_cell(name), _decimals(probability, 6)]
        said = [row.abstained, *([row.unknown] if self.unknown else [])]
        words = ["" if row.error else "yes" if one else "no" for one in said]
        novelty = _decimals(row.novelty, 4)
        return [csv_cell(row.sample), *cells, novelty, *words, *numbers, csv_cell(row.error)]

    def finished(self, draft: Path) -> Path:
        """Return the draft, which is complete."""
        return draft


class JsonLines:
    """One JSON object per line, with all digits."""

    def __init__(self) -> None:
        self.unknown = False
        self.values: tuple[str, ...] = ()
        self.kind: TaskKind = "classification"

    def header(self) -> bytes:
        """Return nothing."""
        return b""

    def encoded(self, rows: Sequence[Prediction]) -> bytes:
        """Return the lines of rows."""
        return _utf8("".join(f"{self._line(row)}\n" for row in rows))

    def _line(self, row: Prediction) -> str:
        fields = _fields(row, self.unknown, self.values, self.kind)
        line = json.dumps(fields, ensure_ascii=False, allow_nan=False)
        if row.embedding is None:
            return line
        # The shortest digits of float32, not the longer ones of the same numbers as float64.
        digits = (one if math.isfinite(float(one)) else "null" for one in row.embedding.astype(str))
        return f'{line[:-1]}, "embedding": [{", ".join(digits)}]}}'

    def finished(self, draft: Path) -> Path:
        """Return the draft, which is complete."""
        return draft


class Parquet:
    """A Parquet file; its draft is a sequence of complete Arrow streams, one per chunk."""

    def __init__(self, embeddings: bool) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "out=<file.parquet> requires the package pyarrow; run "
                "pip install 'tl_lightning[parquet]', or set out=<file.csv> or <file.jsonl>"
            ) from error
        self.embeddings = embeddings
        self.unknown = False
        self.values: tuple[str, ...] = ()
        self.kind: TaskKind = "classification"

    @property
    def schema(self) -> Any:
        """Names and types of the columns."""
        import pyarrow as pa

        pair = pa.struct([("class", pa.string()), ("probability", pa.float64())])
        numbers = [(name, pa.float64()) for name in self.values]
        fields = [
            ("sample", pa.string()), ("class", pa.string()), ("probability", pa.float64()),
            ("top", pa.list_(pair)), ("novelty", pa.float64()), ("abstained", pa.bool_()),
            *([("unknown", pa.bool_())] if self.unknown else []), *numbers, ("error", pa.string()),
        ]  # fmt: skip
        if self.kind in WITHOUT_CLASSES:
            several = [("labels", pa.string())] if self.kind == "multi_label" else []
            fields = [("sample", pa.string()), *several, *numbers, ("error", pa.string())]
        more = [("embedding", pa.list_(pa.float32()))] if self.embeddings else []
        return pa.schema([*fields, *more])

    def header(self) -> bytes:
        """Return nothing."""
        return b""

    def encoded(self, rows: Sequence[Prediction]) -> bytes:
        """Return the rows as an Arrow stream."""
        import pyarrow as pa

        fields = [_fields(row, self.unknown, self.values, self.kind) for row in rows]
        if self.embeddings:
            for one, row in zip(fields, rows, strict=True):
                one["embedding"] = row.embedding
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, self.schema) as writer:
            writer.write_table(pa.Table.from_pylist(fields, schema=self.schema))
        return buffer.getvalue()

    def finished(self, draft: Path) -> Path:
        """Write the Parquet file in groups of the same number of rows."""
        import pyarrow as pa
        from pyarrow import parquet

        final = draft.with_name("finished.parquet")
        with parquet.ParquetWriter(final, self.schema) as writer:
            waiting = self.schema.empty_table()
            for table in self._tables(draft):
                waiting = pa.concat_tables([waiting, table])
                while len(waiting) >= GROUP:
                    writer.write_table(waiting.slice(0, GROUP).combine_chunks(), GROUP)
                    waiting = waiting.slice(GROUP)
            if len(waiting):
                writer.write_table(waiting.combine_chunks(), GROUP)
        with final.open("rb") as file:
            os.fsync(file.fileno())
        return final

    def _tables(self, draft: Path) -> Iterator[Any]:
        import pyarrow as pa

        size = draft.stat().st_size
        with draft.open("rb") as file:
            while file.tell() < size:
                yield pa.ipc.open_stream(file).read_all()


FORMATS = (".csv", ".jsonl", ".parquet")


def format_of(file: Path, top: int, embeddings: bool) -> Format:
    """Return the format of a file by its suffix; CSV for pipes and devices.

    Raises:
        ConfigError: If it is not supported, or does not support embeddings.
    """
    suffix = file.suffix.lower()
    special = file.exists() and not file.is_file() and not file.is_dir()
    if suffix == ".jsonl":
        return JsonLines()
    if suffix == ".parquet" and not special:
        return Parquet(embeddings)
    if suffix != ".csv" and not special:
        raise ConfigError(
            f"out={file} has {f'the suffix {suffix}' if suffix else 'no suffix'}, which is not "
            f"supported; set out=<file{' or '.join(FORMATS)}>"
        )
    if embeddings:
        raise ConfigError(
            f"embeddings=true is not supported for out={file}, since a cell contains one number; "
            "set out=<file.jsonl> or out=<file.parquet>"
        )
    return Csv(top)


def _fields(
    row: Prediction, unknown: bool, values: Sequence[str], kind: TaskKind
) -> dict[str, Any]:
    """Return the values of a row; a class that abstained is null."""
    found = dict(row.values)
    numbers = {name: _finite(found.get(name)) for name in values}
    if kind in WITHOUT_CLASSES:
        several = {"labels": row.label} if kind == "multi_label" else {}
        error = _utf8(row.error).decode() or None
        return {"sample": _utf8(row.sample).decode(), **several, **numbers, "error": error}
    return {
        "sample": _utf8(row.sample).decode(),
        "class": None if row.abstained else row.label,
        "probability": _finite(row.probability),
        "top": [{"class": name, "probability": _finite(value)} for name, value in row.top],
        "novelty": _finite(row.novelty),
        "abstained": None if row.error else row.abstained,
        **({"unknown": row.unknown} if unknown else {}),
        **numbers,
        "error": _utf8(row.error).decode() or None,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _decimals(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _utf8(text: str) -> bytes:
    """Return a text as UTF-8; bytes of paths that are not are escaped."""
    return text.encode("utf-8", "backslashreplace")
