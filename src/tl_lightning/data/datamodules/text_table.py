"""Texts in a CSV, TSV or Parquet table with labels, domains and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tl_lightning.data.datamodules.domain_folders import asked_table_domains, named_or_others
from tl_lightning.data.datamodules.image_table import cell_array, class_order, read_label
from tl_lightning.data.datamodules.text import TextDataModule
from tl_lightning.data.domain import Split
from tl_lightning.data.encoding import column_source, columns_of
from tl_lightning.data.io.folders import SPLIT_NAMES
from tl_lightning.data.io.labels import class_name
from tl_lightning.data.io.tables import (
    Row,
    long_cells,
    read_rows,
    rows_with_labels,
    table_cells,
    wanted_columns,
)
from tl_lightning.data.layout import Layout, pooled
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.text import shorten

__all__ = ["COLUMNS", "TextTableDataModule"]

#: Columns that are read; ``text`` and ``label`` are required.
COLUMNS = ("text", "label", "domain", "split")


@dataclass(frozen=True)
class _Text:
    place: str
    name: str
    text: str
    label: str
    domain: str | None
    split: str | None
    cells: tuple[str, ...] = ()


class TextTableDataModule(TextDataModule):
    """Texts in a table, with optional domain and split columns.

    Args:
        table: The file; ``.parquet`` and ``.pq`` are Parquet, everything else is delimited text.
        delimiter: Delimiter of a text table, or None to detect it from the first line.
        columns: Name in the table of each of :data:`COLUMNS`; None to ignore a column. ``label``
            may be a list of columns of 0 and 1, one for each class; of other tasks than
            classification, of columns with the labels.
        kwargs: See :class:`TextDataModule`; ``root`` is not used.
    """

    has_domains: ClassVar[bool] = True
    has_cells: ClassVar[bool] = True
    in_folders: ClassVar[bool] = False

    def __init__(
        self,
        *,
        table: str | None,
        delimiter: str | None,
        columns: Mapping[str, str | Sequence[str] | None],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name in columns:
            if name not in COLUMNS:
                raise DataError(f"data.columns has no key {name!r}; {nearest(str(name), COLUMNS)}")
        for name in ("text", "label"):
            if columns.get(name) is None:
                raise DataError(
                    f"data.columns.{name}=null, but a table must contain the {name} of each text; "
                    f"set data.columns.{name}=<the column's name>"
                )
        self.table = table
        self.delimiter = delimiter
        self.columns = {name: columns.get(name) for name in COLUMNS}
        self.listed: list[_Text] | None = None
        self.taken: list[str] = []

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the texts of the requested domains, or all if the table has no domains."""
        if self.listed is None:
            self.listed = self._texts(self.table, "data.table")
        valid = sorted({each.domain for each in self.listed if each.domain is not None})
        asked = named_or_others(domain, node, valid, self.pair.node("target"))
        names = asked_table_domains(
            domain,
            asked,
            valid,
            str(self.table),
            self.columns["domain"],
            self.taken,
        )
        if domain == "source":
            self.taken = names
        layouts = {}
        for name in names or [""]:
            own = [each for each in self.listed if not names or each.domain == name]
            if domain == "target" and self.pair.ignores_labels:
                own = [replace(each, label="") for each in own]
            own = rows_with_labels(own, domain, Path(str(self.table)), self.pair.on_problem)
            layouts[name] = _layout(own)
            if layouts[name].note:
                layouts[name] = self.pair.in_part(layouts[name])
        title = "+".join(names) or str(self.name)
        return title, pooled(layouts, self.pair.on_problem, node.get("domain"))

    def label_source(self) -> tuple[list[str], str]:
        """Return the names of the columns with the labels, and what to call them in errors."""
        return column_source(self.columns["label"])

    def read_test(self, place: str) -> Layout:
        """Return the texts of ``data.target.test``, a table with the same columns."""
        table, setting = Path(place), "data.target.test"
        if self.table is not None and table.resolve() == Path(self.table).resolve():
            raise DataError(
                f"data.target.test={place} is data.table; set data.target.test=null, and put the "
                "labelled test texts in the split test"
            )
        listed = self._texts(place, setting)
        listed = rows_with_labels(listed, "source", table, self.pair.on_problem)
        return self.pair.in_part(_layout(listed), setting)

    def _texts(self, table: str | None, setting: str) -> list[_Text]:
        """Read a table and report all rows that cannot be used whatever their label."""
        if table is None:
            raise DataError(
                f"data={self.name} needs a table, but data.table=null; set data.table=/my/list.csv"
            )
        path = Path(table).expanduser()
        with long_cells():
            header, rows = read_rows(path, self.delimiter, wanted_columns(self.columns), setting)
        found_cells = table_cells(
            path, header, rows, self.columns, ("text", "label"), not self.of_cells
        )
        columns = columns_of(self.columns["label"])
        found: list[_Text] = []
        problems: dict[str, list[str]] = {}
        for row, cells in zip(rows, found_cells, strict=True):
            label, own, wrong = read_label(row, cells, columns, self.encoding)
            kind, text = _problem(row, cells, own or (label,), wrong)
            if kind:
                problems.setdefault(kind, []).append(text)
            else:
                found.append(_text(row, path, cells, label, own))
        for kind, places in problems.items():
            self.pair.on_problem(
                f"{path} has {len(places)} row(s) with {kind}: {shorten(places, separator='; ')}; "
                "fix or remove them"
            )
        if not found and not problems:
            raise DataError(f"{path} has no rows below its header; add some texts")
        return found


def _problem(
    row: Row, cells: Mapping[str, str | None], label: Sequence[str], wrong: str
) -> tuple[str, str]:
    """Return the kind of problem of a row and its place, or empty strings.

    Args:
        row: The row.
        cells: Its cells by what they mean.
        label: Its class, or the cells of its label.
        wrong: The kind of problem of the label; empty without one.
    """
    for name in COLUMNS:
        cell = cells.get(name)
        if cell is not None and not cell.strip() and name != "label":  # which a target may lack
            return f"an empty {name}", row.place
    if wrong:
        return wrong, f"{row.place} {', '.join(map(repr, label))}"
    split = cells.get("split")
    if split is not None and split.strip().lower() not in SPLIT_NAMES:
        hint = nearest(split.strip().lower(), SPLIT_NAMES)
        return "an unknown split", f"{row.place} {split!r} ({hint})"
    return "", ""


def _text(
    row: Row, path: Path, cells: Mapping[str, str | None], label: str, own: tuple[str, ...]
) -> _Text:
    domain, split = cells.get("domain"), cells.get("split")
    return _Text(
        row.place,
        f"{path.name}/{row.place}",
        str(cells["text"]),
        label,
        None if domain is None else class_name(domain),
        None if split is None else SPLIT_NAMES[split.strip().lower()],
        own,
    )


def _layout(listed: Sequence[_Text]) -> Layout:
    classes = class_order({each.label for each in listed if each.label})
    parts = {
        split: _split([each for each in listed if (each.split or "train") == split], classes)
        for split in ("train", "val", "test")
    }
    has = {each.split for each in listed}
    number = sum(not each.label for each in listed)
    return Layout(
        classes,
        parts["train"],
        parts["val"] if "val" in has else None,
        parts["test"] if "test" in has else None,
        f"{number:,} texts without labels" if number else "",
    )


def _split(listed: Sequence[_Text], classes: Sequence[str]) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    texts: Any = np.empty(len(listed), dtype=object)
    texts[:] = [each.text for each in listed]
    known = all(each.label for each in listed)
    labels = np.array([number[each.label] for each in listed], dtype=np.int64) if known else None
    return Split(texts, labels, [each.name for each in listed], cells=cell_array(listed))
