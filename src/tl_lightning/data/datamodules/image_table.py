"""Images listed in a CSV, TSV or Parquet table with labels, domains and splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.datamodules.domain_folders import asked_table_domains, named_or_others
from tl_lightning.data.datamodules.image_files import ImageFilesDataModule
from tl_lightning.data.domain import Split
from tl_lightning.data.encoding import (
    LABELLED,
    LabelEncoding,
    column_source,
    columns_of,
    label_cells,
)
from tl_lightning.data.io.folders import SPLIT_NAMES, OnProblem
from tl_lightning.data.io.labels import class_name, label_problem
from tl_lightning.data.io.listed import ListedFiles, posix_path
from tl_lightning.data.io.tables import (
    Row,
    read_rows,
    rows_with_labels,
    table_cells,
    wanted_columns,
)
from tl_lightning.data.layout import Layout, pooled
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.text import shorten

__all__ = ["COLUMNS", "ImageTableDataModule", "cell_array", "class_order", "read_label"]

#: Columns that are read; ``path`` and ``label`` are required.
COLUMNS = ("path", "label", "domain", "split")


class ImageTableDataModule(ImageFilesDataModule):
    """Images listed in a table, with optional domain and split columns.

    Relative paths are resolved against the folder of the table, then ``data.root``; if
    ``source.root`` or ``target.root`` is set, only against that. ``target.table`` is a table of the
    target's own.

    Args:
        table: The file; ``.parquet`` and ``.pq`` are Parquet, everything else is delimited text.
        delimiter: Delimiter of a text table, or None to detect it from the first line.
        columns: Name in the table of each of :data:`COLUMNS`; None to ignore a column. ``label``
            may be a list of columns of 0 and 1, one for each class; of other tasks than
            classification, of columns with the labels.
        label_columns: Columns with labels of auxiliary tasks.
        kwargs: See :class:`ImageFilesDataModule`; a ``target`` without values means no target.
    """

    has_domains = True
    has_cells = True
    target_optional = True
    in_folders = False
    target_keys = ImageFilesDataModule.target_keys | {"table"}

    def __init__(
        self,
        *,
        table: str | None,
        delimiter: str | None,
        columns: Mapping[str, str | Sequence[str] | None],
        label_columns: Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_columns = tuple(label_columns)
        #: Values of ``label_columns`` by image.
        self.cells: dict[Path, tuple[str, ...]] = {}
        for name in columns:
            if name not in COLUMNS:
                raise DataError(f"data.columns has no key {name!r}; {nearest(str(name), COLUMNS)}")
        for name in ("path", "label"):
            if columns.get(name) is None:
                raise DataError(
                    f"data.columns.{name}=null, but a table must contain the {name} of each image; "
                    f"set data.columns.{name}=<the column's name>"
                )
        self.table = table
        self.delimiter = delimiter
        self.columns = {name: columns.get(name) for name in COLUMNS}
        #: Rows by table, and the domains of the source.
        self.rows: dict[str | None, list[_ImageRow]] = {}
        self.taken: list[str] = []

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the images of the requested domains, or all if the table has no domains."""
        place, setting = node.get("table"), f"data.{domain}.table"
        own = place is not None
        place = place if own else self.table
        if place not in self.rows:
            self.rows[place] = self._images(place, setting if own else "data.table")
        valid = sorted({row.domain for row in self.rows[place] if row.domain is not None})
        asked = named_or_others(domain, node, valid, self.pair.node("target"))
        names = asked_table_domains(
            domain, asked, valid, str(place), self.columns["domain"],
            [] if own else self.taken,
        )  # fmt: skip
        if domain == "source":
            self.taken = names
        root, table = node.get("root"), _absolute(place)
        bases = [table.parent, Path(self.pair.root)] if root is None else [Path(str(root))]
        layouts = {}
        for name in names or [""]:
            rows = [row for row in self.rows[place] if not names or row.domain == name]
            if domain == "target" and self.pair.ignores_labels:
                rows = [replace(row, label="") for row in rows]
            rows = rows_with_labels(rows, domain, table, self.pair.on_problem)
            layouts[name] = self._layout(rows, bases, f"data.{domain}.root")
            if layouts[name].note:
                layouts[name] = self.pair.in_part(layouts[name])
        name = "+".join(names) or (table.stem if own else str(self.name))
        return name, pooled(layouts, self.pair.on_problem, node.get("domain"))

    def label_source(self) -> tuple[list[str], str]:
        """Return the names of the columns with the labels, and what to call them in errors."""
        return column_source(self.columns["label"])

    def read_test(self, place: str) -> Layout:
        """Return the images of ``data.target.test``, a table with the same columns."""
        setting, table = "data.target.test", _absolute(place)
        rows = rows_with_labels(self._images(place, setting), "source", table, self.pair.on_problem)
        roots = [self.pair.node("target").get("root"), self.pair.root]
        bases = [table.parent, *(Path(str(root)) for root in roots if root is not None)]
        layout = self._layout(rows, bases, "data.target.root")
        return self.pair.in_part(replace(layout, note=""), setting)

    def aux_labels(self, column: str) -> Mapping[Path, str]:
        """Return the values of a column of ``label_columns`` by image; empty cells included."""
        index = self.label_columns.index(column)
        return {path: cells[index] for path, cells in self.cells.items()}

    def _layout(self, rows: Sequence[_ImageRow], bases: Sequence[Path], setting: str) -> Layout:
        bases = [base.expanduser().absolute() for base in bases]
        kept = _existing(rows, bases, self.pair.on_problem, setting)
        self.cells |= {path: row.aux_labels for row, path in kept}
        classes = class_order({row.label for row, _ in kept if row.label})
        parts = {
            split: _split([pair for pair in kept if (pair[0].split or "train") == split], classes)
            for split in ("train", "val", "test")
        }
        has = {row.split for row, _ in kept}
        number = sum(not row.label for row, _ in kept)
        return Layout(
            classes,
            parts["train"],
            parts["val"] if "val" in has else None,
            parts["test"] if "test" in has else None,
            f"{number:,} images without labels" if number else "",
        )

    def _images(self, table: str | None, setting: str) -> list[_ImageRow]:
        """Read a table and report all rows that cannot be used whatever their label."""
        if table is None:
            raise DataError(
                f"data={self.name} needs a table, but data.table=null; set data.table=/my/list.csv"
            )
        path = Path(table).expanduser()
        header, rows = read_rows(path, self.delimiter, wanted_columns(self.columns), setting)
        found_cells = table_cells(
            path, header, rows, self.columns, ("path", "label"), not self.of_cells
        )
        for column in self.label_columns:
            if column not in header:
                raise DataError(
                    f"{path} has no column {column!r} (it has {', '.join(header)}); "
                    f"{nearest(column, header)}; set data.label_columns=[<the column's name>]"
                )
        found = _Found(columns_of(self.columns["label"]), self.encoding)
        for row, cells in zip(rows, found_cells, strict=True):
            found.add(row, cells, tuple(row.cells[column] for column in self.label_columns))
        found.report(path, self.pair.on_problem)
        return found.images


@dataclass(frozen=True)
class _ImageRow:
    """One row of the table; ``place`` is its line or row number, ``label`` empty without one.

    ``cells`` are those of a label that is not a class.
    """

    place: str
    path: str
    label: str
    domain: str | None
    split: str | None
    aux_labels: tuple[str, ...]
    cells: tuple[str, ...] = ()


@dataclass
class _Found:
    """Usable rows, and the problems of all others by kind."""

    columns: Sequence[str] = ()
    encoding: LabelEncoding | None = None
    images: list[_ImageRow] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, _ImageRow] = field(default_factory=dict)

    def add(self, row: Row, cells: Mapping[str, str | None], aux_labels: tuple[str, ...]) -> None:
        """Add a row, or record its problem."""
        required = [name for name in COLUMNS if name != "label"]  # which a target may lack
        empty = [n for n in required if cells.get(n) is not None and not str(cells[n]).strip()]
        if empty:
            self._problem(f"an empty {empty[0]}", row.place)
            return
        label, own, kind = read_label(row, cells, self.columns, self.encoding)
        if kind:
            self._problem(kind, f"{row.place} {', '.join(map(repr, own or [label]))}")
            return
        path = os.path.normpath(str(cells["path"]).strip())
        cell = cells.get("split")
        split = None if cell is None else SPLIT_NAMES.get(cell.strip().lower())
        if cell is not None and split is None:
            hint = nearest(cell.strip().lower(), SPLIT_NAMES)
            self._problem("an unknown split", f"{row.place} {cell!r} ({hint})")
            return
        domain = cells.get("domain")
        image = _ImageRow(
            row.place,
            path,
            label,
            None if domain is None else class_name(domain),
            split,
            aux_labels,
            own,
        )
        before = self.seen.setdefault(path, image)
        if before is image:
            self.images.append(image)
            return
        for kind in ("label", "cells", "split", "domain", "aux_labels"):
            old, new = getattr(before, kind), getattr(image, kind)
            if old != new:
                text = f"{row.place} {path} is {new!r}, but {old!r} on {before.place}"
                shown = {"aux_labels": "auxiliary label", "cells": "label"}.get(kind, kind)
                self._problem(f"a duplicate path but a different {shown}", text)
                return

    def report(self, path: Path, on_problem: OnProblem) -> None:
        """Report the problems, one message per kind."""
        for kind, places in self.problems.items():
            on_problem(
                f"{path} has {len(places)} row(s) with {kind}: {shorten(places)}; fix or remove "
                "them"
            )
        if not self.images and not self.problems:
            raise DataError(f"{path} has no rows below its header; add some images")

    def _problem(self, kind: str, text: str) -> None:
        self.problems.setdefault(kind, []).append(text)


def read_label(
    row: Row,
    cells: Mapping[str, str | None],
    columns: Sequence[str],
    encoding: LabelEncoding | None,
) -> tuple[str, tuple[str, ...], str]:
    """Return the class of a row, the cells of a label that is not a class, and the problem.

    Args:
        row: The row.
        cells: Its cells by what they mean.
        columns: Names of the columns with the label.
        encoding: How labels are read that are not classes; None for classes.
    """
    if encoding is None or not encoding.of_cells:
        label = class_name(str(cells["label"]))
        return label, (), label_problem(label)
    own = label_cells(row.cells, columns)
    return "" if encoding.is_missing(own) else LABELLED, own, encoding.problem(own, columns)


def class_order(labels: set[str]) -> tuple[str, ...]:
    """Return class names sorted as numbers if all are integers, else as text.

    >>> class_order({"10", "9"}), class_order({"b", "10", "9"})
    (('9', '10'), ('10', '9', 'b'))
    """
    if all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _existing(
    rows: Sequence[_ImageRow], bases: Sequence[Path], on_problem: OnProblem, setting: str
) -> list[tuple[_ImageRow, Path]]:
    """Return the rows whose files exist with these files, sorted by path; report the others."""
    kept: list[tuple[_ImageRow, Path]] = []
    absent: list[str] = []
    repeated: list[str] = []
    ambiguous: list[str] = []
    places: dict[Path, str] = {}
    files = ListedFiles(bases)
    for row in sorted(rows, key=lambda row: row.path):
        found = files.find(row.path)
        if not found:
            absent.append(f"{row.place} {row.path}")
        elif len(found) > 1:
            ambiguous.append(f"{row.place} {row.path} ({', '.join(file.name for file in found)})")
        elif places.setdefault(found[0], row.place) != row.place:
            repeated.append(f"{row.place} {row.path} is the file on {places[found[0]]}")
        else:
            kept.append((row, found[0]))
    if ambiguous:
        on_problem(
            f"{len(ambiguous)} row(s) list images of which there are several: "
            f"{shorten(ambiguous, separator='; ')}; add the suffixes to the table"
        )
    if absent:
        on_problem(
            f"{len(absent)} of {len(rows)} listed images not found: {shorten(absent)}; searched in "
            f"{' and '.join(map(str, bases))}; set {setting}=/folder/of/the/paths, or fix the "
            "table"
        )
    if repeated:
        on_problem(
            f"{len(repeated)} row(s) list an image again under another path: {shorten(repeated)}; "
            "remove them, as the same image could be in the training and the test split"
        )
    return kept


def _split(pairs: Sequence[tuple[_ImageRow, Path]], classes: Sequence[str]) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    known = all(row.label for row, _ in pairs)
    labels = np.array([number[row.label] for row, _ in pairs], dtype=np.int64) if known else None
    names = [posix_path(row.path) for row, _ in pairs]
    return Split(
        [path for _, path in pairs], labels, names, cells=cell_array(row for row, _ in pairs)
    )


def cell_array(rows: Iterable[Any]) -> NDArray[np.str_] | None:
    """Return the cells ``(N, C)`` of the labels of rows; None if they are classes."""
    found = [row.cells for row in rows]
    return np.array(found, dtype=np.str_) if found and found[0] else None


def _absolute(path: str | None) -> Path:
    return Path(str(path)).expanduser().absolute()
