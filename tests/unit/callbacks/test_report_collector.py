"""Data of the run report: projected features and domain distances before and after training."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from helpers import config
from tl_lightning.callbacks.report_collector import ReportCollector, plane
from tl_lightning.config.validation import check as validation
from tl_lightning.config.validation import structure
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import load as loading
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

KEYS = ("health/a_distance_before", "health/a_distance_after")


@pytest.mark.slow
def test_distances_are_those_of_untrained_and_chosen_model(tmp_path) -> None:
    """Compare with a probe on features extracted here from both models.

    The report uses all source test images and the same number of target images.
    """
    settings = ("baselines=[]", "optimizer.lr=0.05", "report.samples=179")
    checked = validation.check(config(*settings))
    report = training.fit(config(*settings), tmp_path)
    data = checked.data.build()
    data.discover()
    models = (
        building.build_module(checked, data.classes).eval(),
        loading.load(tmp_path / report["selection"]["checkpoint"]),
    )
    for key, model in zip(KEYS, models, strict=True):
        data.prepare(model.needs())
        parts = []
        for domain in ("source", "target"):
            pixels = np.asarray(data.found[domain].test.samples)[data.sample_indices(domain, 179)]
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            with torch.no_grad():
                parts.append(model.task(model.extract(images))[0].numpy())
        expected = proxy_a_distance(probe_accuracy(*parts, seed=0))
        assert report["metrics"][key] == pytest.approx(expected, abs=0.03), key
    assert report["metrics"][KEYS[0]] != report["metrics"][KEYS[1]]


@pytest.mark.slow
def test_resumed_run_keeps_results_of_untrained_model(tmp_path) -> None:
    def run(name: str, *more: str) -> tuple[dict[str, float], np.ndarray]:
        settings = config("baselines=[]", "model=source_only", "scheduler=constant", *more)
        report = training.fit(settings, tmp_path / name)
        with np.load(tmp_path / name / "predictions.npz") as arrays:
            return report["metrics"], arrays["features_before"]

    whole = run("whole")
    run("stopped", "trainer.max_epochs=1")
    resumed = run("stopped", "resume=auto")
    assert whole[0] == resumed[0]
    assert np.array_equal(whole[1], resumed[1])


@pytest.mark.slow
def test_no_distance_for_one_domain_or_few_images(tmp_path) -> None:
    few = training.fit(config("baselines=[]", "report.samples=10"), tmp_path / "few")
    one = config("model=source_only", "data.target=null", "baselines=[]")
    for report in (few, training.fit(one, tmp_path / "one")):
        assert not set(KEYS) & set(report["metrics"])


def test_tsne_preserves_neighbours_and_is_deterministic() -> None:
    torch.manual_seed(0)
    points = torch.cat([torch.randn(20, 8), torch.randn(20, 8) + 20])
    projected = plane(points, "tsne")
    assert projected.shape == (40, 2)
    assert np.array_equal(projected, plane(points, "tsne"))
    distances = np.linalg.norm(projected[:, None] - projected, axis=2) + np.diag([np.inf] * 40)
    nearest = distances.argmin(axis=1)
    assert ((nearest < 20) == (np.arange(40) < 20)).all()


def test_umap_gets_a_seed_and_at_most_n_minus_1_neighbours(monkeypatch) -> None:
    received = {}

    class UMAP:
        def __init__(self, **settings) -> None:
            received.update(settings)

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            return points[:, :2]

    package = types.ModuleType("umap")
    package.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", package)
    assert plane(torch.eye(4), "umap").shape == (4, 2)
    assert received == {"n_neighbors": 3, "random_state": 0, "n_jobs": 1}


def test_missing_package_is_reported_before_training(monkeypatch) -> None:
    monkeypatch.setattr(structure, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package umap-learn; run pip install 'tl_li"):
        validation.check(config("report.projection=umap"))
    monkeypatch.setattr(structure, "find_spec", lambda name: name)
    assert validation.check(config("report.projection=umap")).report.projection == "umap"
    with pytest.raises(ConfigError, match=r"report.projection=tnse is not one of pca, tsne, umap"):
        validation.check(config("report.projection=tnse"))


def test_empty_state_has_no_distances() -> None:
    callback = ReportCollector(samples=1, examples=1, projection="pca", seed=0)
    callback.load_state_dict({})
    assert callback.distances() == {}
