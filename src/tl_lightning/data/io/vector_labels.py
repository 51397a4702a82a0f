"""Labels of vectors that are not classes: numbers, or several labels of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.encoding import LabelEncoding
from tl_lightning.data.io.vectors import Table
from tl_lightning.errors import DataError

__all__ = ["label_names", "with_cells"]


def label_names(y: NDArray[np.str_]) -> list[str]:
    """Return names for the columns of labels ``(N, K)``, which files of vectors do not have.

    >>> label_names(np.array([["1"], ["2"]])), label_names(np.array([["1", "2"]]))
    (['y'], ['y1', 'y2'])
    """
    width = y.shape[1]
    return ["y"] if width == 1 else [f"y{number}" for number in range(1, width + 1)]


def with_cells(
    tables: Mapping[str, Table], files: Mapping[str, Path], encoding: LabelEncoding
) -> dict[str, Table]:
    """Return the tables with checked labels; those of a target that are all missing are removed.

    Args:
        tables: By ``source.train`` and the like, with labels as text ``(N, K)``.
        files: The files by setting.
        encoding: How the labels are read.

    Raises:
        DataError: If labels are not valid, or only some are missing.
    """
    found = dict(tables)
    width = tables["source.train"].y.shape[1]  # type: ignore[union-attr]
    for key, table in tables.items():
        if table.y is None:
            continue
        where = f"data.{key}={files[f'data.{key}']}"
        if table.y.shape[1] != width:
            raise DataError(
                f"{where} has {table.y.shape[1]} label(s) of every vector, but data.source.train "
                f"has {width}; use files with the same labels"
            )
        rows = table.y.tolist()
        problems = {k: encoding.problem(row, label_names(table.y)) for k, row in enumerate(rows)}
        if wrong := [k for k, text in problems.items() if text]:
            raise DataError(
                f"{where}: {len(wrong)} row(s) have {problems[wrong[0]]}, the first is "
                f"{', '.join(rows[wrong[0]])} in row {wrong[0]} (counted from 0); fix or remove "
                "them"
            )
        missing = [k for k, row in enumerate(rows) if encoding.is_missing(row)]
        if len(missing) == len(rows) and key == "target.train":
            found[key] = Table(table.x, None)
        elif missing:
            raise DataError(
                f"{where}: {len(missing)} of {len(rows)} vectors have no label, the first is in "
                f"row {missing[0]} (counted from 0); remove them, or leave out all labels of a "
                "target that has none"
            )
    return found
