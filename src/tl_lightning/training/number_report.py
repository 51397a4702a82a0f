"""What a run's report says of predicted numbers, or of several labels of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.reporting.number_metrics import number_metrics
from tl_lightning.training.build import Parts
from tl_lightning.types import DOMAINS
from tl_lightning.utils.spread import spread

__all__ = ["POINTS", "domain_numbers", "number_entries"]

#: Largest number of samples of a domain whose labels and predictions the report contains.
POINTS = 2000


def number_entries(parts: Parts, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return ``numbers`` for the report.

    ``numbers`` has the ``names`` of the outputs and, for each tested domain with labels, the
    ``metrics`` of :func:`.number_metrics` by name and at most :data:`POINTS` samples ``points``,
    with their labels ``true`` and predictions ``predicted``, a list for each output. Empty for a
    task of several labels.

    Args:
        parts: Objects of a run after the test.
        arrays: Those of ``predictions.npz``.
    """
    if parts.run.task.kind != "regression":
        return {}
    names = list(parts.data.classes)
    found: dict[str, Any] = {"names": names}
    for domain in DOMAINS:
        true, predicted = arrays.get(f"{domain}_measured"), arrays.get(f"{domain}_value")
        if true is not None and predicted is not None:
            found[domain] = domain_numbers(true, predicted, names, parts.run.seed)
    return {"numbers": found}


def domain_numbers(
    true: NDArray[Any], predicted: NDArray[Any], names: list[str], seed: int
) -> dict[str, Any]:
    """Return the metrics and points of one domain, see :func:`number_entries`."""
    chosen = spread(len(true), POINTS)
    points = {
        "true": [[float(value) for value in column] for column in true[chosen].T],
        "predicted": [[float(value) for value in column] for column in predicted[chosen].T],
    }
    labels, outputs = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    metrics = number_metrics(labels, outputs, names, seed=seed)
    return {"metrics": metrics, "points": points}
