"""How the labels of a main task are read that are not classes: one class per kind of task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.config.schema import RunConfig, TaskConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.encoding import LabelEncoding
from tl_lightning.errors import DataError, nearest
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask
from tl_lightning.tasks.auxiliary.multi_label import SEPARATOR, MultiLabel
from tl_lightning.tasks.auxiliary.regression import Regression
from tl_lightning.utils.text import shorten

__all__ = ["LabelSets", "Levels", "Numbers", "data_of", "encoding_of"]

Cells = NDArray[np.str_]
#: Names of columns of predictions that an output cannot have, and how others begin.
_RESERVED = ("sample", "file", "domain", "labels", "embedding", "error")
_OF_LABELS = "label "
#: Cells of columns that say whether a sample has a label.
_BINARY = {
    "0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True,
}  # fmt: skip
#: Largest label, and the standard deviations and their least fraction of the mean, in float32.
_LARGEST, _STD, _LEAST_SPREAD = 3e38, (1e-30, 1e30), 1e-4


class _OfCells:
    """Base class of labels that are read from the cells of one or several columns."""

    of_cells = True

    def is_missing(self, cells: Sequence[str]) -> bool:
        """Return whether a row has no label."""
        return all(map(AuxiliaryTask.is_missing, cells))


class Numbers(_OfCells):
    """One or several numbers, each in a column of its own; standardised by the training labels."""

    kind = "regression"

    def problem(self, cells: Sequence[str], columns: Sequence[str]) -> str:
        """Return why a row cannot be used; empty if it can, or has no label."""
        if self.is_missing(cells):
            return ""
        if any(map(AuxiliaryTask.is_missing, cells)):
            return "only some of the numbers of a label"
        try:
            values = [Regression.encode(cell, {}) for cell in cells]
        except ValueError:
            return "a label that is not a finite number (with a decimal point)"
        return f"a label beyond {_LARGEST:g}" if max(map(abs, values)) > _LARGEST else ""

    def fit(self, labels: Cells, columns: Sequence[str], where: str) -> dict[str, Any]:
        """Return the names of the columns, and mean and standard deviation of each."""
        found = []
        for name, column in zip(columns, labels.T, strict=True):
            if len(set(map(float, column))) < 2:
                raise DataError(
                    f"{where}: {name} is {column[0]} for all training samples of the source, so "
                    "there is nothing to learn; use another column"
                )
            found.append(Regression.label_info_of(column.tolist(), {}, where))
            _check_precision(f"{where}: {name}", **found[-1])
        return {"names": _usable(columns, where), "columns": found}

    def encode(self, labels: Cells, learned: Mapping[str, Any]) -> tuple[NDArray[Any], list[str]]:
        """Return the numbers ``(N, K)`` float32, in the unit of the labels."""
        values = labels.astype(np.float64).reshape(len(labels), len(learned["names"]))
        return values.astype(np.float32), [""] * len(labels)


class LabelSets(_OfCells):
    """Any number of labels: ``a;b`` in one column, or one column of 0 and 1 for each label.

    A cell of ``;`` stands for a sample without any of them, which has a label all the same.
    """

    kind = "multi_label"

    def problem(self, cells: Sequence[str], columns: Sequence[str]) -> str:
        """Return why a row cannot be used; empty if it can, or has no label."""
        if self.is_missing(cells) or len(columns) == 1:
            return ""
        valid = all(cell.strip() in _BINARY for cell in cells)
        return "" if valid else "a cell that is neither 0 nor 1 in the columns of the labels"

    def fit(self, labels: Cells, columns: Sequence[str], where: str) -> dict[str, Any]:
        """Return the names of the labels, those of the columns in their order."""
        if len(columns) == 1:
            found = MultiLabel.label_info_of(labels[:, 0].tolist(), {}, where)
            return {"names": _usable(found["names"], where)}
        for name, column in zip(columns, labels.T, strict=True):
            if len({_BINARY[cell] for cell in column.tolist()}) < 2:
                raise DataError(
                    f"{where}: {name} is {column[0]} for all training samples of the source, so "
                    "there is nothing to learn; leave out this column"
                )
        return {"names": _usable(columns, where)}

    def encode(self, labels: Cells, learned: Mapping[str, Any]) -> tuple[NDArray[Any], list[str]]:
        """Return zeros and ones ``(N, K)`` float32."""
        values, invalid = [], []
        for row in labels.tolist():
            text = row[0] if len(row) == 1 else _joined(row, learned["names"])
            try:
                values.append(MultiLabel.encode(text, {**learned}))
                invalid.append("")
            except ValueError as error:
                values.append(MultiLabel.missing({**learned}))
                invalid.append(str(error))
        found = np.asarray(values, dtype=np.float32)
        return found.reshape(len(labels), len(learned["names"])), invalid


def _check_precision(where: str, mean: float, std: float) -> None:
    """Raise DataError for numbers that float32 cannot tell apart, or cannot hold."""
    if std < _LEAST_SPREAD * abs(mean):
        raise DataError(
            f"{where} has a standard deviation of {std:.4g} around {mean:.9g}, which float32 would "
            f"round too much; subtract a constant such as {mean:.6g}, or change the unit"
        )
    if not _STD[0] <= std <= _STD[1]:
        raise DataError(
            f"{where} has a standard deviation of {std:.4g}, outside of {_STD[0]:g} to {_STD[1]:g} "
            "for float32; change the unit"
        )


def _usable(names: Sequence[str], where: str) -> list[str]:
    """Return names of outputs, which name columns of predictions and metrics."""
    keys = [name.replace("/", "_") for name in names]  # of metrics, see NumberScores
    for name, key in zip(names, keys, strict=True):
        if name in _RESERVED or name.startswith(_OF_LABELS) or keys.count(key) > 1:
            raise DataError(
                f"{where}: an output is named {name!r}, as another column of the predictions; "
                "rename it"
            )
    return list(names)


def _joined(row: Sequence[str], names: Sequence[str]) -> str:
    has = [name for name, cell in zip(names, row, strict=True) if _BINARY[cell.strip()]]
    return SEPARATOR.join(has) or SEPARATOR


class Levels:
    """Classes with an order.

    Args:
        levels: The classes from low to high, or None if all of them are integers.
    """

    kind = "ordinal"
    of_cells = False

    def __init__(self, levels: Sequence[str | int] | None) -> None:
        self.levels = None if levels is None else [str(level) for level in levels]

    def problem(self, cells: Sequence[str], columns: Sequence[str]) -> str:
        """Return nothing: classes are read as those of a classification."""
        return ""

    def is_missing(self, cells: Sequence[str]) -> bool:
        """Return whether a row has no label."""
        return not any(cell.strip() for cell in cells)

    def fit(self, labels: Cells, columns: Sequence[str], where: str) -> dict[str, Any]:
        """Return the levels from low to high; ``columns`` are the names of the classes."""
        if self.levels is None:
            text = [name for name in columns if not re.fullmatch(r"[+-]?\d+", name)]
            if text:
                raise DataError(
                    f"{where}: task.levels=null needs integers as classes, but {text[0]!r} is "
                    f"none; set task.levels=[{','.join(columns)}] in the order from low to high"
                )
            by_number: dict[int, str] = {}
            for name in columns:
                if (same := by_number.setdefault(int(name), name)) != name:
                    raise DataError(
                        f"{where} has the classes {same!r} and {name!r}, which are the same "
                        "integer; rename one of them, or set task.levels=[<from low to high>]"
                    )
            return {"names": [by_number[number] for number in sorted(by_number)]}
        if unknown := [name for name in columns if name not in self.levels]:
            raise DataError(
                f"{where} has the class {unknown[0]!r}, which is not in task.levels="
                f"{self.levels}; {nearest(unknown[0], self.levels)}"
            )
        if absent := [name for name in self.levels if name not in columns]:
            raise DataError(
                f"task.levels contains {shorten(absent)}, but the classes are {shorten(columns)}; "
                "leave out levels without samples"
            )
        return {"names": self.levels}

    def encode(self, labels: Cells, learned: Mapping[str, Any]) -> tuple[NDArray[Any], list[str]]:
        """Return the indices of the levels ``(N,)`` int64."""
        number = {name: index for index, name in enumerate(learned["names"])}
        texts = labels[:, 0].tolist()
        invalid = ["" if text in number else repr(text) for text in texts]
        return np.array([number.get(text, 0) for text in texts], dtype=np.int64), invalid


def encoding_of(task: TaskConfig) -> LabelEncoding | None:
    """Return how the labels of a main task are read; None for classes."""
    if task.kind == "ordinal":
        return Levels(task.levels)
    if task.kind == "regression":
        return Numbers()
    return LabelSets() if task.kind == "multi_label" else None


def data_of(run: RunConfig) -> TransferDataModule:
    """Return the data module of a checked configuration, which reads the labels of its task."""
    data: TransferDataModule = run.data.build()
    data.encoding = encoding_of(run.task)
    return data
