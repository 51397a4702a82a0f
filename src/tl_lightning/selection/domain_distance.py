"""Domain distance: accuracy of a linear domain probe, and the proxy A-distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["probe_accuracy", "proxy_a_distance"]


def probe_accuracy(source: NDArray[np.float32], target: NDArray[np.float32], seed: int) -> float:
    """Return the accuracy of a fresh linear probe that classifies features by domain.

    A logistic regression is fitted on half of the samples and tested on the other half. The larger
    domain is subsampled to the size of the smaller one, so that chance is 0.5.

    Args:
        source: ``(N_s, D)``.
        target: ``(N_t, D)``.
        seed: Seed of the subsampling and the split into halves.

    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=(200, 4)).astype(np.float32)
    >>> probe_accuracy(a, a + 10, seed=0)
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    n = min(len(source), len(target))
    half = n // 2
    parts = [domain[rng.permutation(len(domain))[:n]] for domain in (source, target)]
    labels = np.repeat([1, 0], half)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, C=0.1))
    probe.fit(np.concatenate([part[:half] for part in parts]), labels)
    held_out = np.concatenate([part[n - half :] for part in parts])
    return float(probe.score(held_out, labels))


def proxy_a_distance(accuracy: float) -> float:
    """Return ``2 (1 - 2 error)``, the proxy A-distance of Ben-David et al. (2007), at least 0.

    >>> proxy_a_distance(1.0), proxy_a_distance(0.5), proxy_a_distance(0.4)
    (2.0, 0.0, 0.0)
    """
    return max(0.0, 2.0 * (1.0 - 2.0 * (1.0 - accuracy)))
