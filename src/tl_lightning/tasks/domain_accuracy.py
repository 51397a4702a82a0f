"""Accuracy by named domain, with the mean over the domains and the worst of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEAN", "WORST", "domain_accuracies"]

#: Metrics that follow ``source/val/`` and the like.
MEAN, WORST = "mean_domain_acc", "worst_domain_acc"


def domain_accuracies(
    names: Sequence[str], domains: NDArray[np.int64], right: NDArray[Any]
) -> dict[str, float]:
    """Return the accuracy by ``acc_<domain>``, their mean and the lowest; nothing without names.

    Domains without samples are left out. The mean gives every domain the same weight, as the
    selection by training domains in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021) does.

    Args:
        names: Names of the domains.
        domains: ``(N,)`` index of each sample's domain.
        right: ``(N,)`` whether each sample was predicted correctly.

    >>> found = domain_accuracies(["a", "b"], np.array([0, 0, 1]), np.array([True, False, True]))
    >>> {name: float(value) for name, value in found.items()}
    {'acc_a': 0.5, 'acc_b': 1.0, 'mean_domain_acc': 0.75, 'worst_domain_acc': 0.5}
    """
    known = {
        name: float(np.mean(right[domains == number]))
        for number, name in enumerate(names)
        if (domains == number).any()
    }
    if not known:
        return {}
    values = [*known.values()]
    by_name = {f"acc_{name.replace('/', '_')}": value for name, value in known.items()}
    return {**by_name, MEAN: float(np.mean(values)), WORST: min(values)}
