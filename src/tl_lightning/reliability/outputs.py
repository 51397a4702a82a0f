"""Checked outputs of one model on labelled source samples and on target samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tl_lightning.errors import DataError
from tl_lightning.utils.probabilities import temperature
from tl_lightning.utils.spread import spread

__all__ = ["FiniteOutputs", "finite_outputs"]

Array = NDArray[Any]

#: Maximum number of source rows that the temperature is fitted to.
CALIBRATED = 5000


@dataclass(frozen=True)
class FiniteOutputs:
    """The rows that are finite.

    Attributes:
        source: float64 ``(n, K)``, logits of labelled source samples.
        labels: ``(n,)``.
        target: float64 ``(m, K)``, logits of target samples.
        source_rows: Number of source rows given, at least n.
        target_rows: Number of target rows given, at least m.
    """

    source: Array
    labels: Array
    target: Array
    source_rows: int
    target_rows: int

    def probabilities(self) -> tuple[Array, Array]:
        """Return those of source and target, at the temperature that calibrates the source."""
        rows = spread(len(self.source), CALIBRATED)
        scale = temperature(self.source[rows], self.labels[rows])
        source, target = (softmax(z / scale, axis=1) for z in (self.source, self.target))
        return source, target


def finite_outputs(
    source_logits: Array, source_labels: Array, target_logits: Array
) -> FiniteOutputs:
    """Return the rows that are finite.

    Args:
        source_logits: ``(n, K)`` of labelled source samples that the model was not trained on.
        source_labels: ``(n,)``.
        target_logits: ``(m, K)`` of the same model.

    Raises:
        DataError: If the arrays do not match, or a domain has no finite row.
    """
    source, target = (np.asarray(z, dtype=np.float64) for z in (source_logits, target_logits))
    labels = np.asarray(source_labels)
    _check(source, labels, target)
    of_source: Array = np.all(np.isfinite(source), axis=1)
    of_target: Array = np.all(np.isfinite(target), axis=1)
    for domain, finite in (("source validation", of_source), ("target", of_target)):
        if not finite.any():
            raise DataError(
                f"none of the {len(finite)} {domain} predictions is finite, so that no accuracy "
                "can be estimated: the model has diverged; train it with a lower optimizer.lr"
            )
    return FiniteOutputs(
        source[of_source], labels[of_source], target[of_target], len(source), len(target)
    )


def _check(source: Array, labels: Array, target: Array) -> None:
    shapes = f"{source.shape}, {labels.shape} and {target.shape}"
    matching = source.ndim == target.ndim == 2 and source.shape[1:] == target.shape[1:]
    if not matching or labels.shape != source.shape[:1]:
        raise DataError(
            "the source logits (n, K), source labels (n,) and target logits (m, K) must be those "
            f"of one model, got the shapes {shapes}"
        )
    if not source.size or not target.size:
        raise DataError(
            "source validation and target must have at least one sample each, got the shapes "
            f"{shapes}"
        )
    classes = source.shape[1]
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"the source labels must be class indices from 0 to {classes - 1}, got {labels.dtype} "
            f"from {labels.min()} to {labels.max()}"
        )
