"""Scores of samples that are unlike the source."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from tl_lightning.reliability import novelty
from tl_lightning.reliability.novelty import auroc, energy, neighbour_distance, shares_below


def test_distances_equal_those_of_scikit_learn(monkeypatch) -> None:
    monkeypatch.setattr(novelty, "BLOCK", 7)
    rng = np.random.default_rng(0)
    known, rows = rng.normal(size=(60, 5)), rng.normal(size=(20, 5))
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (known, rows)]
    expected = NearestNeighbors(n_neighbors=10).fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    np.testing.assert_allclose(neighbour_distance(rows, known, 10), expected, atol=1e-5)
    own = NearestNeighbors(n_neighbors=10).fit(unit[0]).kneighbors()[0][:, -1]
    np.testing.assert_allclose(neighbour_distance(known, known, 10, own=True), own, atol=1e-5)


def test_fewer_known_samples_than_neighbours_and_no_rows() -> None:
    known = np.eye(3)
    expected = pytest.approx([np.sqrt(2)] * 3)
    assert neighbour_distance(known, known, 10) == expected
    assert len(neighbour_distance(np.zeros((0, 3)), known)) == 0


def test_unfamiliar_samples_have_high_scores() -> None:
    rng = np.random.default_rng(0)
    centres = 6 * np.eye(8)[:4]
    known, familiar = (centres[rng.integers(0, 4, 200)] + rng.normal(size=(200, 8)) for _ in "ab")
    unfamiliar = 6 * np.eye(8)[5] + rng.normal(size=(200, 8))
    scores = [neighbour_distance(rows, known) for rows in (familiar, unfamiliar)]
    assert auroc(*scores) > 0.95
    within = neighbour_distance(known, known, own=True)
    assert shares_below(scores[0], within).mean() == pytest.approx(0.5, abs=0.1)
    assert shares_below(scores[1], within).mean() > 0.95
    logits = [rows @ centres.T for rows in (familiar, unfamiliar)]
    assert auroc(*(energy(z) for z in logits)) > 0.95
