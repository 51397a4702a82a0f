"""Thresholds of rejection."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from tl_lightning.reliability.rejection import otsu, source_threshold


@pytest.mark.parametrize("seed", range(3))
def test_otsu_is_k_means_with_two_centres(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(0.2, 0.1, 80), rng.normal(0.8, 0.15, 30)])
    groups = KMeans(2, n_init=10, random_state=0).fit_predict(scores[:, None])
    high = groups == groups[scores.argmax()]
    assert scores[~high].max() < otsu(scores) < scores[high].min()


def test_scores_that_cannot_be_divided() -> None:
    assert otsu(np.array([0.3, 0.3, 0.3])) == np.inf
    assert otsu(np.array([np.nan, 0.1])) == np.inf
    assert otsu(np.array([0.1, 0.1, 0.1, 0.9, np.nan])) == 0.5
    assert source_threshold(np.array([np.nan])) == np.inf
