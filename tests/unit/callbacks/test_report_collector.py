"""What the report draws: features before and after training, and how far apart the domains are."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from helpers import config
from tl_lightning.callbacks.report_collector import Collect, plane
from tl_lightning.config.validation import check as validation
from tl_lightning.config.validation import reporting
from tl_lightning.config.validation.reporting import projection_faults
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import load as loading
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

KEYS = ("health/a_distance_before", "health/a_distance_after")


def test_distances_are_of_the_untrained_and_of_the_chosen_model(tmp_path) -> None:
    """Against a probe of features that are taken here from both models, one picture after another.

    The report's samples are all of the source's test pictures and as many of the target's.
    """
    settings = ("bracket=[]", "optimizer.lr=0.05", "report.samples=179")
    checked = validation.check(config(*settings))
    report = training.fit(config(*settings), tmp_path)
    data = building.build_data(checked)
    data.discover()
    models = (
        building.build_module(checked, data.classes).eval(),
        loading.load(tmp_path / report["selection"]["checkpoint"]),
    )
    for key, model in zip(KEYS, models, strict=True):
        data.attach(model.backbone.input_spec, model.train_on, ("source",))
        parts = []
        for role in ("source", "target"):
            pixels = np.asarray(data.found[role].test.pictures)[data.sample_places(role, 179)]
            pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            with torch.no_grad():
                parts.append(model.task(model.extract(pictures))[0].numpy())
        expected = proxy_a_distance(probe_accuracy(*parts, seed=0))
        assert report["metrics"][key] == pytest.approx(expected, abs=0.03), key
    assert report["metrics"][KEYS[0]] != report["metrics"][KEYS[1]]


def test_a_resumed_run_keeps_what_the_untrained_model_gave(tmp_path) -> None:
    def run(name: str, *more: str) -> tuple[dict[str, float], np.ndarray]:
        found = config("bracket=[]", "model=source_only", "scheduler=constant", *more)
        report = training.fit(found, tmp_path / name)
        with np.load(tmp_path / name / "predictions.npz") as arrays:
            return report["metrics"], arrays["features_before"]

    whole = run("whole")
    run("cut", "trainer.max_epochs=1")
    resumed = run("cut", "resume=auto")
    assert whole[0] == resumed[0]
    assert np.array_equal(whole[1], resumed[1])


def test_one_domain_and_few_pictures_have_no_distance(tmp_path) -> None:
    few = training.fit(config("bracket=[]", "report.samples=10"), tmp_path / "few")
    alone = config("model=source_only", "data.target=null", "bracket=[]")
    for report in (few, training.fit(alone, tmp_path / "alone")):
        assert not set(KEYS) & set(report["metrics"])


def test_tsne_keeps_neighbours_together_and_repeats_itself() -> None:
    torch.manual_seed(0)
    points = torch.cat([torch.randn(20, 8), torch.randn(20, 8) + 20])
    found = plane(points, "tsne")
    assert found.shape == (40, 2)
    assert np.array_equal(found, plane(points, "tsne"))
    distances = np.linalg.norm(found[:, None] - found[None], axis=2) + np.diag([np.inf] * 40)
    nearest = distances.argmin(axis=1)
    assert ((nearest < 20) == (np.arange(40) < 20)).all()


def test_umap_gets_a_seed_and_a_number_of_neighbours_that_there_is(monkeypatch) -> None:
    asked = {}

    class UMAP:
        def __init__(self, **settings) -> None:
            asked.update(settings)

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            return points[:, :2]

    package = types.ModuleType("umap")
    package.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", package)
    assert plane(torch.eye(4), "umap").shape == (4, 2)
    assert asked == {"n_neighbors": 3, "random_state": 0, "n_jobs": 1}


def test_a_missing_package_is_told_before_work_starts(monkeypatch) -> None:
    monkeypatch.setattr(reporting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package umap-learn; type pip install 'tl_li"):
        validation.check(config("report.projection=umap"))
    monkeypatch.setattr(reporting, "find_spec", lambda name: name)
    assert projection_faults("umap") == []
    with pytest.raises(ConfigError, match=r"report.projection=tnse is no proj.*mean 'tsne'"):
        validation.check(config("report.projection=tnse"))


def test_a_checkpoint_of_a_callback_without_features_is_none() -> None:
    callback = Collect(samples=1, examples=1, projection="pca", seed=0)
    callback.load_state_dict({})
    assert callback.distances() == {}
