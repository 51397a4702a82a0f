"""Errors of predicted numbers, with 95 % bootstrap intervals; pure functions on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.reporting.statistics import CONFIDENCE

__all__ = ["NUMBER_METRICS", "number_metrics"]

Floats = NDArray[np.float64]
#: A metric with the lower and upper end of its interval, each None if it is not defined.
Value = list[float | None]

#: Labels of the metrics in tables, in their order.
NUMBER_METRICS = {
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "spearman": "Spearman's rank correlation",
}
#: Resampled test sets: the most, and the fewest, of large ones.
REPLICATES, FEWEST = 1000, 200
#: Samples of all resampled test sets together, above which there are fewer of them.
LARGEST = 5_000_000
#: Fewest samples that an interval is computed from.
FEW = 5
#: Entries of a block of resampled test sets.
BLOCK = 2_000_000


def number_metrics(
    true: NDArray[Any], predicted: NDArray[Any], names: Sequence[str], *, seed: int = 0
) -> dict[str, dict[str, Value]]:
    """Return the errors of each output, in the unit of the labels.

    ``mae`` is the mean of ``|y - f|`` and ``rmse`` the square root of the mean of ``(y - f)^2``.
    ``r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2`` is not defined for fewer than two samples or
    equal labels, and ``spearman``, the correlation of the ranks (equal values share their mean
    rank), neither for equal predictions. The intervals are the 2.5 and 97.5 % quantiles over test
    sets that are drawn from the samples with replacement. They are left out for fewer than five
    samples, if all resampled test sets have the same value, or if most have none.

    Args:
        true: ``(N, K)`` labels, finite.
        predicted: ``(N, K)``, finite.
        names: Names of the K outputs.
        seed: Of the resampled test sets, which are the same for all outputs.

    Returns:
        By output and metric of :data:`NUMBER_METRICS`: the value, and the lower and the upper end
        of its interval.

    Raises:
        ValueError: If shapes do not match, or values are not finite.

    >>> true, predicted = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [6.0]])
    >>> found = number_metrics(true, predicted, ["a"])
    >>> found["a"]["mae"], found["a"]["spearman"]
    ([1.0, None, None], [1.0, None, None])
    """
    y, f = (np.asarray(values, dtype=np.float64) for values in (true, predicted))
    if y.ndim != 2 or y.shape != f.shape or y.shape[1] != len(names):
        raise ValueError(
            f"labels and predictions must both be (N, {len(names)}), one column per name, but are "
            f"{y.shape} and {f.shape}"
        )
    if not (np.isfinite(y).all() and np.isfinite(f).all()):
        raise ValueError("labels and predictions must be finite; leave out samples without labels")
    counts = _counts(len(y), seed)
    return {name: _of_output(y[:, k], f[:, k], counts) for k, name in enumerate(names)}


def _counts(n: int, seed: int) -> list[NDArray[Any]]:
    """Return in blocks ``(B, n)`` how often each sample is in each resampled test set."""
    if n < FEW:
        return []
    random = np.random.default_rng(seed)
    number = int(np.clip(LARGEST // n, FEWEST, REPLICATES))
    step = max(1, BLOCK // n)
    blocks = []
    for start in range(0, number, step):
        rows = min(step, number - start)
        drawn = random.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        block = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        blocks.append(block.astype(np.uint16 if n < 2**16 else np.uint32))
    return blocks


def _of_output(y: Floats, f: Floats, counts: Sequence[NDArray[Any]]) -> dict[str, Value]:
    if not len(y):
        return {name: [None, None, None] for name in NUMBER_METRICS}
    scale = float(max(np.abs(y).max(), np.abs(f).max())) or 1.0  # squares do not overflow
    y, f = y / scale, f / scale
    groups = [np.unique(values, return_inverse=True)[1] for values in (y, f)]
    values = _metrics(y, f, groups, np.ones((1, len(y))))
    draws = [_metrics(y, f, groups, block.astype(np.float64)) for block in counts]
    return {
        name: _with_interval(
            float(value[0]), np.concatenate([np.empty(0), *(draw[name] for draw in draws)]),
            scale if name in ("mae", "rmse") else 1.0,
        )
        for name, value in values.items()
    }  # fmt: skip


def _metrics(
    y: Floats, f: Floats, groups: Sequence[NDArray[Any]], counts: Floats
) -> dict[str, Floats]:
    """Return the metrics ``(B,)`` of resampled test sets; NaN where they are not defined.

    Args:
        y: ``(N,)``.
        f: ``(N,)``.
        groups: For labels and predictions, the position ``(N,)`` of each among the sorted values.
        counts: ``(B, N)`` number of times that each sample is in each test set.
    """
    n = counts.sum(1)
    squared = counts @ (y - f) ** 2
    found = {"mae": counts @ np.abs(y - f) / n, "rmse": np.sqrt(squared / n)}
    centred = y - y.mean()
    spread = counts @ centred**2 - (counts @ centred) ** 2 / n
    found["r2"] = 1 - _ratio(squared, np.where(_differ(counts, groups[0]), spread, 0.0))
    ranks = [_ranks(counts, group) for group in groups]
    first, second = (rank - (counts * rank).sum(1, keepdims=True) / n[:, None] for rank in ranks)
    sums = [
        (counts * one * two).sum(1)
        for one, two in ((first, second), (first, first), (second, second))
    ]
    found["spearman"] = _ratio(sums[0], np.sqrt(sums[1] * sums[2]))
    return found


def _ratio(above: Floats, below: Floats) -> Floats:
    found = np.full(len(above), np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found


def _differ(counts: Floats, group: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for every test set whether it has samples with different values."""
    found: NDArray[np.bool_] = (_by_group(counts, group) > 0).sum(1) > 1
    return found


def _by_group(counts: Floats, group: NDArray[Any]) -> Floats:
    """Return the number of samples ``(B, G)`` with each value."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    found: Floats = np.add.reduceat(counts[:, order], starts, axis=1)
    return found


def _ranks(counts: Floats, group: NDArray[Any]) -> Floats:
    """Return the rank ``(B, N)`` of every sample in each test set, the mean of equal ones."""
    number = _by_group(counts, group)
    found: Floats = (number.cumsum(1) - (number - 1) / 2)[:, group]
    return found


def _with_interval(value: float, draws: Floats, scale: float) -> Value:
    if not np.isfinite(value):
        return [None, None, None]
    known = draws[np.isfinite(draws)]
    if not len(known) or len(known) <= len(draws) / 2:
        return [scale * value, None, None]
    tail = (1 - CONFIDENCE) / 2
    low, high = (scale * float(end) for end in np.quantile(known, [tail, 1 - tail]))
    return [scale * value, low, high] if low < high else [scale * value, None, None]
