"""Files of vectors: npz, svmlight and mat."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tl_lightning.errors import DataError

__all__ = ["Table", "read_vectors"]

#: Names that an array of vectors and one of labels may have in an npz or mat file.
FEATURES = ("x", "features", "fts", "feas", "data", "embeddings")
LABELS = ("y", "labels", "label", "gnd", "target", "targets")
SVMLIGHT = (".svmlight", ".svm", ".libsvm", ".txt", ".dat")


class Table(NamedTuple):
    """What a file holds.

    Attributes:
        x: ``(N, F)``, float32, perhaps sparse (CSR).
        y: ``(N,)`` class names as text, or None where the file has no labels.
    """

    x: Any
    y: NDArray[np.str_] | None


def read_vectors(path: Path, setting: str) -> Table:
    """Return the vectors of a file; which kind it is its name says.

    An npz or mat file holds the vectors under ``x``, ``features``, ``fts``, ``feas``, ``data`` or
    ``embeddings`` and labels under ``y``, ``labels``, ``label``, ``gnd``, ``target`` or
    ``targets`` (capitals make no difference). An svmlight file may be packed (.gz, .bz2); its
    indices begin at 0 or at 1.

    Args:
        path: The file.
        setting: The key that names it, for the errors.

    Raises:
        DataError: If it is missing, of no known kind, broken, or does not hold what it should.
    """
    if not path.is_file():
        raise DataError(f"{setting}={path} is no file; type {setting}=/my/vectors.npz")
    kind = path.with_suffix("").suffix if path.suffix in (".gz", ".bz2") else path.suffix
    try:
        if kind == ".npz":
            found = _npz(path, setting)
        elif kind == ".mat":
            found = _mat(path, setting)
        elif kind in SVMLIGHT:
            found = _svmlight(path)
        else:
            raise DataError(
                f"{setting}={path}: {kind or 'no suffix'} names no kind of file that is known; "
                f"name it .npz, .mat or {SVMLIGHT[0]}"
            )
    except DataError:
        raise
    except Exception as error:  # truncated files raise whatever their readers stumble over
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{setting}={path} cannot be read as {kind}: {words}; get the file again"
        ) from error
    return _checked(found, path, setting)


def _npz(path: Path, setting: str) -> Table:
    with np.load(path, allow_pickle=False) as stored:
        return _named({name: stored[name] for name in stored.files}, path, setting)


def _mat(path: Path, setting: str) -> Table:
    from scipy.io import loadmat

    stored = loadmat(path)
    return _named({k: v for k, v in stored.items() if not k.startswith("__")}, path, setting)


def _named(arrays: dict[str, Any], path: Path, setting: str) -> Table:
    lower = {name.lower(): value for name, value in arrays.items()}
    x = next((lower[name] for name in FEATURES if name in lower), None)
    y = next((lower[name] for name in LABELS if name in lower), None)
    if x is None:
        raise DataError(
            f"{setting}={path} holds {', '.join(arrays) or 'nothing'}, and no vectors under "
            f"{', '.join(FEATURES)}; name the array of vectors x"
        )
    return Table(x, None if y is None else np.asarray(y).reshape(-1))


def _svmlight(path: Path) -> Table:
    from sklearn.datasets import load_svmlight_file

    # Whether indices begin at 0 or 1 no file can tell by itself: a column 0 that no file uses is
    # taken away once all are read.
    x, y = load_svmlight_file(str(path), dtype=np.float32, zero_based=True)
    return Table(x, y)


def _checked(found: Table, path: Path, setting: str) -> Table:
    x: Any = found.x.tocsr() if sparse.issparse(found.x) else np.asarray(found.x)
    if x.ndim != 2 or 0 in x.shape or not np.issubdtype(x.dtype, np.number):
        raise DataError(
            f"{setting}={path}: the vectors are an array of shape {x.shape} and type {x.dtype}, "
            "not (number, length) of numbers"
        )
    x = x.astype(np.float32)
    values = x.data if sparse.issparse(x) else x
    if not np.isfinite(values).all():
        rows = x.tocoo().row[~np.isfinite(values)] if sparse.issparse(x) else _bad_rows(x)
        raise DataError(
            f"{setting}={path}: {len(set(rows.tolist()))} vectors hold NaN or infinity, the first "
            f"in row {rows.min()} (counted from 0); remove or mend them"
        )
    if found.y is None:
        return Table(x, None)
    if len(found.y) != x.shape[0]:
        raise DataError(
            f"{setting}={path} holds {x.shape[0]} vectors and {len(found.y)} labels; they must be "
            "as many"
        )
    names = np.array([_name(label) for label in found.y.tolist()])
    if unknown := np.flatnonzero(names == "nan").tolist():
        raise DataError(
            f"{setting}={path}: {len(unknown)} labels are NaN, the first in row {unknown[0]} "
            "(counted from 0); remove those rows, or leave the labels of a target out"
        )
    return Table(x, names)


def _bad_rows(x: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.flatnonzero(~np.isfinite(x).all(axis=1))


def _name(label: Any) -> str:
    """Return a label as the name of a class.

    >>> _name(1.0), _name(-1), _name("cat")
    ('1', '-1', 'cat')
    """
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
