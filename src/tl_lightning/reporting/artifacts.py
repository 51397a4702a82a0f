"""Readers for the logged metrics and the predictions of a finished run."""

from __future__ import annotations

import csv
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tl_lightning.errors import DataError

__all__ = ["Curves", "Predictions", "Series", "read_curves", "read_predictions"]

Array = NDArray[Any]
Curves = dict[str, "Series"]


class Series(NamedTuple):
    """One logged column without its empty cells; all three arrays have the same length.

    Attributes:
        epoch: Zero-based epoch of each value; NaN if unknown.
        step: Optimizer step of each value.
        value: The logged values.
    """

    epoch: Array
    step: Array
    value: Array

    def per_epoch(self) -> tuple[Array, Array]:
        """Return the epochs and the mean of the finite values of each.

        >>> Series(np.array([0, 0, 1]), np.array([1, 2, 3]), np.array([1.0, 3.0, 5.0])).per_epoch()
        (array([0, 1]), array([2., 5.]))
        """
        known = np.isfinite(self.epoch) & np.isfinite(self.value)
        epochs, index = np.unique(self.epoch[known], return_inverse=True)
        total = np.bincount(index, weights=self.value[known], minlength=len(epochs))
        return epochs, total / np.maximum(np.bincount(index, minlength=len(epochs)), 1)


def read_curves(path: str | Path) -> Curves:
    """Read a ``metrics.csv`` of Lightning's CSVLogger; empty if the file does not exist.

    Rows without an epoch, such as those of a learning-rate monitor, get the epoch of the next row
    that has one.

    Raises:
        DataError: If a cell is not a number.
    """
    path = Path(path)
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as handle:
        rows = [
            {key: _number(cell, key, path, line) for key, cell in row.items() if key and cell}
            for line, row in enumerate(csv.DictReader(handle), start=2)
        ]
    _fill_epochs(rows)
    names = dict.fromkeys(key for row in rows for key in row if key not in ("epoch", "step"))
    return {name: _series([row for row in rows if name in row], name) for name in names}


def _number(cell: str, column: str, path: Path, line: int) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise DataError(
            f"{path}, line {line}: column {column!r} must be a number, got {cell!r}. "
            "Fix the cell or delete the line, then write the page again with tl-report"
        ) from None


def _fill_epochs(rows: list[dict[str, float]]) -> None:
    following = math.nan
    for row in reversed(rows):
        following = row.setdefault("epoch", following)


def _series(rows: list[dict[str, float]], name: str) -> Series:
    columns = ([row.get(key, math.nan) for row in rows] for key in ("epoch", "step", name))
    return Series(*(np.asarray(column, dtype=float) for column in columns))


#: More are taken for damage; a confusion matrix of this many has 800 MB.
_MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Predictions:
    """The arrays of ``predictions.npz`` and the class names.

    Attributes:
        arrays: ``{domain}_true`` (N,), ``{domain}_pred`` (N,), ``features_before`` (M, 2), ...
        classes: Class names by index.
    """

    arrays: dict[str, Array]
    classes: list[str]

    def pair(self, domain: str) -> tuple[Array, Array] | None:
        """Return (true, predicted) of the labelled samples of a domain; None if there are none.

        Samples that were taken for none of the classes count as predicted as the unknown one, which
        is the last of :attr:`classes`, if the target has any.
        """
        true, pred = self.arrays.get(f"{domain}_true"), self.arrays.get(f"{domain}_pred")
        if true is None or pred is None or not np.any(true >= 0):
            return None
        rejected = self.arrays.get(f"{domain}_rejected")
        if rejected is not None and true.max() == len(self.classes) - 1 > pred.max():
            pred = np.where(rejected, true.max(), pred)
        return true[true >= 0], pred[true >= 0]

    def outcomes(self, domain: str) -> tuple[Array, Array] | None:
        """Return the finite logits of the labelled samples of a domain, and which are right.

        float64 ``(n, K)`` and bool ``(n,)``; None if there are none.
        """
        logits, labels = self.arrays.get(f"{domain}_logits"), self.arrays.get(f"{domain}_true")
        if logits is None or labels is None or logits.ndim != 2:
            return None
        labels = labels[self.arrays.get(f"{domain}_logits_row", slice(None))]
        known = np.isfinite(logits).all(axis=1) & (labels >= 0)
        if not known.any():
            return None
        logits = logits[known].astype(np.float64)
        return logits, logits.argmax(axis=1) == labels[known]

    def confusion(self, domain: str) -> Array | None:
        """Return counts (C, C), true classes in rows, predicted in columns; None if unlabelled."""
        pair = self.pair(domain)
        if pair is None:
            return None
        size = self.num_classes
        return np.bincount(pair[0] * size + pair[1], minlength=size * size).reshape(size, size)

    @property
    def num_classes(self) -> int:
        """Number of classes: the named ones, or more if a label exceeds them."""
        largest = (
            int(array.max()) + 1
            for key, array in self.arrays.items()
            if key.endswith(("_true", "_pred", "_label")) and array.size
        )
        return max([len(self.classes), *largest])

    def name(self, index: int) -> str:
        """Return the name of a class, or its index if it has no name."""
        return self.classes[index] if 0 <= index < len(self.classes) else str(index)


def read_predictions(path: str | Path, classes: list[str]) -> Predictions:
    """Read a ``predictions.npz``; the result has no arrays if the file does not exist.

    Args:
        path: The file.
        classes: Class names by index.

    Raises:
        DataError: If the file is corrupt or contains pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        return Predictions({}, classes)
    try:
        # Opened here because np.load leaks the file handle if the file is not an archive.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as a numpy archive of plain arrays ({error}): it is truncated "
            "or was not written by this package. Delete it and write the page again with "
            "tl-report, or run the evaluation again"
        ) from error
    for key, array in arrays.items():
        index = key.endswith(("_true", "_pred", "_label"))
        if index:
            valid = array.dtype.kind == "i" and bool(np.all(array < _MOST_CLASSES))
        else:
            valid = array.dtype.kind in "biuf" or key.endswith(("_name", "_text"))
        if not valid:
            expected = f"indices of at most {_MOST_CLASSES:,} classes" if index else "numbers"
            raise DataError(
                f"{path}: {key} must contain {expected}, got {array.dtype}: the file was not "
                "written by this package. Delete it and write the page again with tl-report"
            )
    return Predictions(arrays, classes)
