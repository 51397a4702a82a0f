"""Labels of a main task that are not plain classes: numbers, ordered levels, several labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.domain import Domain, Split
from tl_lightning.errors import DataError
from tl_lightning.utils.text import shorten

__all__ = ["LABELLED", "LabelEncoding", "column_source", "columns_of", "encoded", "label_cells"]

#: Name of the only class of samples whose labels are cells, while their splits are chosen.
LABELLED = "labelled"
Cells = NDArray[np.str_]


class LabelEncoding(Protocol):
    """How the labels of a main task are read, see :mod:`tl_lightning.tasks.encoding`.

    Attributes:
        kind: One of :data:`.TaskKind`.
        of_cells: Whether a label is read from the cells of one or several columns, instead of the
            name of a class.
    """

    kind: str
    of_cells: bool

    def problem(self, cells: Sequence[str], columns: Sequence[str]) -> str:
        """Return why the cells of a row are not a label; empty if they are, or are missing."""

    def is_missing(self, cells: Sequence[str]) -> bool:
        """Return whether a row has no label."""

    def fit(self, labels: Cells, columns: Sequence[str], where: str) -> dict[str, Any]:
        """Return what is learned of the training labels: ``names`` of the outputs, and more.

        Args:
            labels: Cells ``(N, C)``, or names of classes ``(N, 1)``.
            columns: Names of the columns ``(C,)``, or of all classes.
            where: What the labels are of, for errors.

        Raises:
            DataError: If there is nothing to learn, or it is of another kind.
        """

    def encode(self, labels: Cells, learned: Mapping[str, Any]) -> tuple[NDArray[Any], list[str]]:
        """Return the labels as numbers, and the reasons why some are not valid, by row."""


def label_cells(cells: Mapping[str, str], column: str | Sequence[str]) -> tuple[str, ...]:
    """Return the cells of a row with its label.

    >>> label_cells({"age": " 7 ", "size": "2.5"}, ["age", "size"])
    ('7', '2.5')
    """
    return tuple(cells[one].strip() for one in columns_of(column))


def columns_of(column: str | Sequence[str] | None) -> list[str]:
    """Return the names of the columns with the label."""
    return [column] if isinstance(column, str) else list(column or ())


def column_source(column: str | Sequence[str] | None) -> tuple[list[str], str]:
    """Return the names of the columns of a table with the label, and what errors call them."""
    columns = columns_of(column)
    return columns, f"data.columns.label={','.join(columns)}"


def encoded(data: Any, found: dict[str, Domain]) -> dict[str, Domain]:
    """Return the domains with labels as numbers; unchanged if labels are classes.

    What is learned of the training labels becomes a part of ``data.input_state``, unless it has
    that of a trained model already.

    Args:
        data: A data module, with ``encoding``, ``input_state``, ``learn_from`` and, for labels of
            cells, ``label_source()``.
        found: Its domains, with cells or names of classes as labels.

    Raises:
        DataError: If labels are not valid.
    """
    encoding: LabelEncoding | None = data.encoding
    if encoding is None:
        return found
    first = found[data.learn_from]
    columns, where = first.classes, f"data={data.name} with task={encoding.kind}"
    if encoding.of_cells:
        columns, where = data.label_source()
    if "labels" not in data.input_state:
        fitted = encoding.fit(_texts(first, first.train), columns, where)
        data.input_state = {**data.input_state, "labels": fitted}
    learned = data.input_state["labels"]

    def change(domain: Domain, split: Split) -> Split:
        if split.labels is None:
            return replace(split, cells=None)
        texts = _texts(domain, split)
        # A single column of multi_label contains the names of its labels.
        if encoding.of_cells and (len(columns) > 1 or encoding.kind == "regression"):
            texts = texts[:, _column_of_each(data, columns, learned["names"], where)]
        values, invalid = encoding.encode(texts, learned)
        if rows := [f"{n}: {text}" for n, text in zip(split.names, invalid, strict=True) if text]:
            raise DataError(
                f"{where} has {len(rows)} label(s) in {domain.name} that are not among those of "
                f"the training samples: {shorten(rows, 3, '; ')}; fix or remove these rows"
            )
        return replace(split, labels=values, cells=None)

    def of(domain: Domain) -> Domain:
        changed = domain.map(lambda split: change(domain, split))
        note = domain.note.replace("of every class", "of the samples") if encoding.of_cells else ""
        names = tuple(learned["names"])
        return replace(changed, classes=names, note=note or domain.note)

    return {key: of(domain) for key, domain in found.items()}


def _column_of_each(
    data: Any, columns: Sequence[str], names: Sequence[str], where: str
) -> list[int]:
    """Return the index of each output's column, which may have another order than in training.

    Raises:
        DataError: If the columns are not those of the outputs.
    """
    if sorted(columns) == sorted(names):
        return [list(columns).index(name) for name in names]
    named = hasattr(data, "columns")  # those of an array have no names
    if not named and len(columns) == len(names):
        return [*range(len(names))]
    outputs = ",".join(names)
    raise DataError(
        f"{where}: the model was trained on the {len(names)} label(s) {outputs}, but these data "
        f"have {','.join(columns)}; "
        + (
            f"set data.columns.label=[{outputs}], and name the columns of the table so"
            if named
            else f"use an array y with {len(names)} column(s)"
        )
    )


def _texts(domain: Domain, split: Split) -> Cells:
    if split.cells is not None:
        return split.cells
    assert split.labels is not None
    found: Cells = np.array(domain.classes, dtype=np.str_)[split.labels][:, None]
    return found
