"""Reader for feature vectors in npz, svmlight and mat files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tl_lightning.data.io.labels import class_name, label_problem
from tl_lightning.errors import DataError

__all__ = ["Table", "read_vectors"]

#: Accepted names of the vectors and of the labels in npz and mat files.
FEATURES = ("x", "features", "fts", "feas", "data", "embeddings")
LABELS = ("y", "labels", "label", "gnd", "target", "targets")
SVMLIGHT = (".svmlight", ".svm", ".libsvm", ".txt", ".dat")


class Table(NamedTuple):
    """Contents of a vector file.

    Attributes:
        x: ``(N, F)`` float32, dense or sparse (CSR).
        y: ``(N,)`` class names as strings, or the text of other labels ``(N, K)``; None if the file
            has no labels.
    """

    x: Any
    y: NDArray[np.str_] | None


def read_vectors(path: Path, setting: str, classes: bool = True) -> Table:
    """Return the vectors and labels of a file; the format is determined by its suffix.

    In npz and mat files the vectors are named ``x``, ``features``, ``fts``, ``feas``, ``data`` or
    ``embeddings`` and the labels ``y``, ``labels``, ``label``, ``gnd``, ``target`` or ``targets``
    (case-insensitive). Svmlight files may be compressed (.gz, .bz2); their indices start at 0 or 1.

    Args:
        path: The file.
        setting: Configuration key of the file, for error messages.
        classes: Whether the labels are classes; others may have several columns ``(N, K)``.

    Raises:
        DataError: If the file is missing, of an unknown format or corrupt, or its contents are
            not valid.
    """
    if not path.is_file():
        raise DataError(f"{setting}={path} is not a file; set {setting}=/my/vectors.npz")
    suffix = path.with_suffix("").suffix if path.suffix in (".gz", ".bz2") else path.suffix
    try:
        if suffix == ".npz":
            table = _npz(path, setting)
        elif suffix == ".mat":
            table = _mat(path, setting)
        elif suffix in SVMLIGHT:
            table = _svmlight(path)
        else:
            raise DataError(
                f"{setting}={path} has {f'the suffix {suffix}' if suffix else 'no suffix'}, which "
                f"is not supported; use a file named .npz, .mat or {SVMLIGHT[0]}"
            )
    except DataError:
        raise
    except Exception as error:  # The readers raise many kinds of errors for truncated files.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{setting}={path} cannot be read as {suffix}: {reason}; get another copy of the file"
        ) from error
    return _checked(table, path, setting, classes)


def _npz(path: Path, setting: str) -> Table:
    # An open file, since numpy leaves the file of a damaged archive open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return _from_arrays({name: stored[name] for name in stored.files}, path, setting)


def _mat(path: Path, setting: str) -> Table:
    from scipy.io import loadmat

    stored = loadmat(path)
    return _from_arrays({k: v for k, v in stored.items() if not k.startswith("__")}, path, setting)


def _from_arrays(arrays: dict[str, Any], path: Path, setting: str) -> Table:
    lower = {name.lower(): value for name, value in arrays.items()}
    x = next((lower[name] for name in FEATURES if name in lower), None)
    y = next((lower[name] for name in LABELS if name in lower), None)
    if x is None:
        raise DataError(
            f"{setting}={path} contains {', '.join(arrays) or 'nothing'}, but no vectors named "
            f"{', '.join(FEATURES)}; name the array of vectors x"
        )
    return Table(x, None if y is None else np.asarray(y))


def _svmlight(path: Path) -> Table:
    from sklearn.datasets import load_svmlight_file

    # A single file does not tell whether its indices start at 0 or 1; the caller drops column 0
    # if no file uses it.
    x, y = load_svmlight_file(str(path), dtype=np.float32, zero_based=True)
    return Table(x, y)


def _checked(table: Table, path: Path, setting: str, classes: bool) -> Table:
    x: Any = table.x.tocsr() if sparse.issparse(table.x) else np.asarray(table.x)
    if x.ndim != 2 or 0 in x.shape or not np.issubdtype(x.dtype, np.number):
        raise DataError(
            f"{setting}={path}: the vectors must be a numeric array of shape (samples, features), "
            f"got shape {x.shape} and dtype {x.dtype}"
        )
    x = x.astype(np.float32)
    values = x.data if sparse.issparse(x) else x
    if not np.isfinite(values).all():
        rows = x.tocoo().row[~np.isfinite(values)] if sparse.issparse(x) else _bad_rows(x)
        raise DataError(
            f"{setting}={path}: {len(set(rows.tolist()))} vectors contain NaN or infinity, the "
            f"first in row {rows.min()} (counted from 0); remove or fix them"
        )
    if table.y is None:
        return Table(x, None)
    y = table.y.reshape(-1) if classes else _columns(table.y, x.shape[0])
    if len(y) != x.shape[0]:
        raise DataError(
            f"{setting}={path} contains {x.shape[0]} vectors but {len(y)} labels; their "
            "numbers must be equal"
        )
    if not classes:
        return Table(x, y.astype(np.str_))
    names = np.array([_name(label) for label in y.tolist()])
    wrong = [row for row, name in enumerate(names.tolist()) if not name or label_problem(name)]
    if wrong:
        raise DataError(
            f"{setting}={path}: {len(wrong)} labels are neither names nor integers, the first is "
            f"{str(names[wrong[0]])!r} in row {wrong[0]} (counted from 0); remove those rows, or "
            "leave out the labels of a target"
        )
    return Table(x, names)


def _columns(y: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return labels as ``(N, K)``; mat files have a single column as ``(1, N)``."""
    if y.ndim == 2 and y.shape[0] != rows and y.shape[1] == rows:
        y = y.T
    return y.reshape(len(y), -1) if y.ndim else y.reshape(1, 1)


def _bad_rows(x: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.flatnonzero(~np.isfinite(x).all(axis=1))


def _name(label: Any) -> str:
    """Return the class name of a label.

    >>> _name(1.0), _name(-1), _name("cat")
    ('1', '-1', 'cat')
    """
    whole = isinstance(label, float) and label.is_integer()
    return class_name(str(int(label)) if whole else str(label))
