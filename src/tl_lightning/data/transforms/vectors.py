"""Selection and scaling of vectors, as fitted in training and stored with a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["dense", "from_first", "network_rows", "scaled", "selected", "vector_width"]

State = Mapping[str, Any]


def network_rows(x: Any, state: State) -> NDArray[Any]:
    """Return the inputs of a network ``(N, C)`` float32 for vectors as they are in a file.

    Args:
        x: ``(N, F)``, dense or sparse (CSR).
        state: What training fitted: ``width`` of the files, whether svmlight indices start at
            ``first`` 1, the kept ``columns``, ``scale`` and its ``mean`` and ``std``. Empty for a
            model of vectors that are not changed.

    Raises:
        IndexError: If a kept column does not exist.
    """
    if sparse.issparse(x) and x.shape[1] < state.get("width", 0):
        x = x.copy()
        x.resize(x.shape[0], state["width"])
    return scaled(dense(selected(from_first(x, state), state)), state)


def from_first(x: Any, state: State) -> Any:
    """Return vectors without column 0 if they are sparse and their indices start at 1."""
    return x[:, 1:] if sparse.issparse(x) and state.get("first") else x


def selected(x: Any, state: State) -> Any:
    """Return the kept columns."""
    columns = state.get("columns")
    return x if columns is None else x[:, columns]


def dense(x: Any) -> NDArray[np.float32]:
    """Return vectors as a dense float32 array."""
    found: NDArray[np.float32] = np.asarray(
        x.toarray() if sparse.issparse(x) else x, dtype=np.float32
    )
    return found


def scaled(x: NDArray[Any], state: State) -> NDArray[Any]:
    """Return dense vectors scaled as in training."""
    scale = state.get("scale", "none")
    if scale == "none":
        return x
    if scale == "l2":
        length = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.where(length > 0, length, 1)
    else:
        mean, std = (np.array(state[name], dtype=np.float32) for name in ("mean", "std"))
        x = (x - mean) / np.where(std > 0, std, 1)
    return x.astype(np.float32)


def vector_width(state: State, width: int) -> int:
    """Return the number of columns of the vectors as they are in a file.

    Args:
        state: The preprocessing in a checkpoint.
        width: Length of the backbone's input.
    """
    # The first column of svmlight files that count from 1 is not one of the vectors.
    return int(state.get("width", width)) - bool(state.get("first"))
