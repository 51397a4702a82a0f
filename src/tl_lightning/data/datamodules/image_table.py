"""A list of pictures with their labels, domains and splits: CSV, TSV or Parquet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.data.datamodules.image_files import FileData
from tl_lightning.data.datamodules.table_domains import TableDomains
from tl_lightning.data.domain import Split
from tl_lightning.data.io.folders import Complain
from tl_lightning.data.io.tables import Row, read_rows
from tl_lightning.data.layout import Layout, pooled
from tl_lightning.errors import DataError, nearest

__all__ = ["COLUMNS", "TableData", "class_order"]

#: What a table may say of a picture; path and label it must.
COLUMNS = ("path", "label", "domain", "split")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SHOWN = 5


class TableData(TableDomains, FileData):
    """The pictures that a table lists; domains and splits are columns of it.

    Args:
        table: The file. ``.parquet`` and ``.pq`` are Parquet, everything else is text.
        delimiter: What stands between a text's columns, or None to see it in the first line.
        columns: The table's own names of :data:`COLUMNS`; None for a column to be ignored.
        others: Columns with labels of further tasks.
        kwargs: As in :class:`FileData`. A relative path is looked for in the table's folder, then
            in ``data.root``; with ``source.root`` or ``target.root`` in that alone. A ``target``
            that names nothing is no target.
    """

    has_domains = True
    target_optional = True

    def __init__(
        self,
        *,
        table: str | None,
        delimiter: str | None,
        columns: Mapping[str, str | None],
        others: Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.others = tuple(others)
        #: What the columns of ``others`` say, by picture.
        self.cells: dict[Path, tuple[str, ...]] = {}
        for name in columns:
            if name not in COLUMNS:
                raise DataError(f"data.columns has no key {name!r}; {nearest(str(name), COLUMNS)}")
        for name in ("path", "label"):
            if columns.get(name) is None:
                raise DataError(
                    f"data.columns.{name}=null, but a table must say every picture's {name}; type "
                    f"data.columns.{name}=<the column's name>"
                )
        self.table = table
        self.delimiter = delimiter
        self.columns = {name: columns.get(name) for name in COLUMNS}
        self.rows: list[_Picture] | None = None
        self.taken: list[str] = []

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the pictures of the domain asked for, or all where the table knows no domains."""
        if self.rows is None:
            self.rows = self._pictures()
        valid = sorted({row.domain for row in self.rows if row.domain is not None})
        names = self._asked(role, node, valid)
        layouts = {}
        for name in names or [""]:
            own = [row for row in self.rows if not names or row.domain == name]
            layouts[name] = self._layout(own, role, node)
        return "+".join(names) or str(self.name), pooled(layouts, self.complain)

    def further_labels(self, column: str) -> Mapping[Path, str]:
        """Return what a column of ``others`` says, by picture; empty where it says nothing."""
        place = self.others.index(column)
        return {path: cells[place] for path, cells in self.cells.items()}

    def _layout(self, rows: Sequence[_Picture], role: str, node: Mapping[str, Any]) -> Layout:
        own, folder = node.get("root"), Path(str(self.table)).expanduser().absolute().parent
        bases = [folder, Path(self.root)] if own is None else [Path(str(own))]
        bases = [base.expanduser().absolute() for base in bases]
        kept = _there(rows, bases, self.complain, f"data.{role}.root")
        self.cells |= {path: row.others for row, path in kept}
        classes = class_order({row.label for row, _ in kept})
        parts = {
            split: _split([pair for pair in kept if (pair[0].split or "train") == split], classes)
            for split in ("train", "val", "test")
        }
        has = {row.split for row, _ in kept}
        return Layout(
            classes,
            parts["train"],
            parts["val"] if "val" in has else None,
            parts["test"] if "test" in has else None,
        )

    def _pictures(self) -> list[_Picture]:
        """Read the table and complain of every row that cannot be used."""
        if self.table is None:
            raise DataError(
                f"data={self.name} needs a table, but data.table=null; type data.table=/my/list.csv"
            )
        path = Path(self.table).expanduser()
        wanted = {n: column for n, column in self.columns.items() if column is not None}
        header, rows = read_rows(path, self.delimiter, list(wanted.values()))
        for name, column in wanted.items():
            # The two that may lack do so silently only under their usual names.
            if column not in header and (name in ("path", "label") or column != name):
                raise DataError(
                    f"{path} has no column {column!r} (it has {', '.join(header)}); "
                    f"{nearest(column, header)}; type data.columns.{name}=<the column's name>"
                )
        for column in self.others:
            if column not in header:
                raise DataError(
                    f"{path} has no column {column!r} (it has {', '.join(header)}); "
                    f"{nearest(column, header)}; type data.others=[<the column's name>]"
                )
        found = _Found()
        for row in rows:
            cells = {name: row.cells.get(column) for name, column in wanted.items()}
            found.add(row, cells, tuple(row.cells[column] for column in self.others))
        found.complain(path, self.complain)
        return found.pictures


@dataclass(frozen=True)
class _Picture:
    """What one row says; ``place`` is where it stands."""

    place: str
    path: str
    label: str
    domain: str | None
    split: str | None
    others: tuple[str, ...]


@dataclass
class _Found:
    """The rows that can be used, and the faults of the others by kind."""

    pictures: list[_Picture] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, _Picture] = field(default_factory=dict)

    def add(self, row: Row, cells: Mapping[str, str | None], others: tuple[str, ...]) -> None:
        """Take one row in, or note what is wrong with it."""
        lacking = [n for n in COLUMNS if cells.get(n) is not None and not str(cells[n]).strip()]
        if lacking:
            self._fault(f"an empty {lacking[0]}", row.place)
            return
        path = os.path.normpath(str(cells["path"]).strip())
        written = cells.get("split")
        split = None if written is None else SPLITS.get(written.strip().lower())
        if written is not None and split is None:
            hint = nearest(written.strip().lower(), SPLITS)
            self._fault("an unknown split", f"{row.place} {written!r} ({hint})")
            return
        domain = cells.get("domain")
        picture = _Picture(
            row.place,
            path,
            str(cells["label"]).strip(),
            None if domain is None else domain.strip(),
            split,
            others,
        )
        before = self.seen.setdefault(path, picture)
        if before is picture:
            self.pictures.append(picture)
            return
        for kind in ("label", "split", "domain", "others"):
            old, new = getattr(before, kind), getattr(picture, kind)
            if old != new:
                words = f"{row.place} {path} is {new!r}, but {old!r} on {before.place}"
                shown = {"others": "further label"}.get(kind, kind)
                self._fault(f"a path that is there with another {shown}", words)
                return

    def complain(self, path: Path, complain: Complain) -> None:
        """Say all of it, a sentence a kind."""
        for kind, places in self.faults.items():
            complain(
                f"{path} has {len(places)} rows with {kind}: {_some(places)}; mend or remove them"
            )
        if not self.pictures and not self.faults:
            raise DataError(f"{path} lists no pictures below its first line; add some")

    def _fault(self, kind: str, words: str) -> None:
        self.faults.setdefault(kind, []).append(words)


def class_order(labels: set[str]) -> tuple[str, ...]:
    """Return class names in order: as numbers if all are whole numbers, else as texts.

    >>> class_order({"10", "9"}), class_order({"b", "10", "9"})
    (('9', '10'), ('10', '9', 'b'))
    """
    if all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _there(
    rows: Sequence[_Picture], bases: Sequence[Path], complain: Complain, setting: str
) -> list[tuple[_Picture, Path]]:
    """Return the rows whose files are on disk with those, by path; complain of the others."""
    kept: list[tuple[_Picture, Path]] = []
    absent: list[str] = []
    twice: list[str] = []
    taken: dict[Path, str] = {}
    for row in sorted(rows, key=lambda row: row.path):
        # An absolute path takes the place of the base that it is joined to.
        file = next((base / row.path for base in bases if (base / row.path).is_file()), None)
        if file is None:
            absent.append(f"{row.place} {row.path}")
        elif taken.setdefault(file, row.place) != row.place:
            twice.append(f"{row.place} {row.path} is the file on {taken[file]}")
        else:
            kept.append((row, file))
    if absent:
        complain(
            f"{len(absent)} of {len(rows)} listed pictures are not on disk: {_some(absent)}; "
            f"looked for in {' and '.join(map(str, bases))}; type {setting}=/folder/of/the/paths, "
            "or mend the table"
        )
    if twice:
        complain(
            f"{len(twice)} rows name a picture by another path once more: {_some(twice)}; "
            "remove them, or one would train and test on the same picture"
        )
    return kept


def _split(pairs: Sequence[tuple[_Picture, Path]], classes: Sequence[str]) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[row.label] for row, _ in pairs], dtype=np.int64)
    names = [Path(row.path).as_posix() for row, _ in pairs]
    return Split([path for _, path in pairs], labels, names)


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more
