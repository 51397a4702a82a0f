"""How unlike the source samples a sample is, for inputs that belong to none of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

__all__ = ["auroc", "energy", "neighbour_distance", "shares_below"]

Array = NDArray[Any]

#: Number of the neighbour whose distance counts. Validation splits have few samples per class, so
#: that farther ones are of other classes, see docs/measurements.md.
NEIGHBOUR = 1
#: Rows compared at once.
BLOCK = 1000


def energy(logits: Array) -> Array:
    """Return the energy of each row, ``(N,)``: higher for unfamiliar samples.

    Liu, Wang, Owens, Li (2020): Energy-based Out-of-distribution Detection. NeurIPS.
    arXiv:2010.03759. ``-log sum_k exp(z_k)``.

    >>> energy(np.array([[0.0, 0.0], [9.0, 0.0]])).round(2).tolist()
    [-0.69, -9.0]
    """
    found: Array = -logsumexp(np.asarray(logits, dtype=np.float64), axis=1)
    return found


def neighbour_distance(
    features: Array, known: Array, neighbour: int = NEIGHBOUR, own: bool = False
) -> Array:
    """Return the distance to the k-th nearest known sample, ``(N,)``.

    Sun, Ming, Zhu, Li (2022): Out-of-Distribution Detection with Deep Nearest Neighbors. ICML.
    arXiv:2204.06507. Features are scaled to unit length.

    Args:
        features: ``(N, D)``.
        known: ``(M, D)`` of source samples.
        neighbour: k, at most M.
        own: Whether the rows are the known samples themselves, which do not count for themselves.

    >>> known = np.array([[1.0, 0.0], [2.0, 0.0], [1.0, 0.1]])
    >>> neighbour_distance(np.array([[3.0, 0.0], [0.0, 1.0]]), known, 2).round(2).tolist()
    [0.0, 1.41]
    """
    first, second = (_unit(part) for part in (features, known))
    rank = min(neighbour + own, len(second)) - 1
    parts = []
    for start in range(0, len(first), BLOCK):
        similarity = first[start : start + BLOCK] @ second.T
        nearest = -np.partition(-similarity, rank, axis=1)[:, rank]
        parts.append(np.sqrt(np.clip(2 - 2 * nearest.astype(np.float64), 0.0, None)))
    return np.concatenate(parts) if parts else np.zeros(0)


def shares_below(values: Array, known: Array) -> Array:
    """Return for each value the fraction of known values below it, ``(N,)``.

    >>> shares_below(np.array([0.5, 9.0]), np.array([0.0, 1.0, 2.0, 3.0])).tolist()
    [0.25, 1.0]
    """
    found: Array = np.searchsorted(np.sort(known), values) / max(1, len(known))
    return found


def auroc(familiar: Array, unfamiliar: Array) -> float:
    """Return the probability that an unfamiliar sample has a higher score than a familiar one.

    >>> auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.875
    """
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([0, 1], [len(familiar), len(unfamiliar)])
    return float(roc_auc_score(labels, np.concatenate([familiar, unfamiliar])))


def _unit(rows: Array) -> Array:
    rows = np.asarray(rows, dtype=np.float32)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Array = rows / np.maximum(norm, np.finfo(np.float32).tiny)
    return scaled
