"""Closed-form alignment of the features of a pretrained network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from helpers import config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import CheckpointError, ConfigError, DataError
from tl_lightning.evaluation import load as loading
from tl_lightning.methods.align import Align
from tl_lightning.methods.components import alignment
from tl_lightning.methods.components.alignment import DIAGONAL, KINDS, FeatureAlignment, fit_map
from tl_lightning.methods.components.domain_norm import set_batch_domains
from tl_lightning.tasks.head import Head
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.types import Context


def domains(count: int = 4000, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return features of two domains that differ in mean and covariance."""
    g = np.random.default_rng(0)
    mix = np.eye(width) + 0.3 * g.normal(size=(2, width, width))
    source, target = (g.normal(size=(count, width)) @ mix[i] for i in (0, 1))
    return source + 1.0, target - 2.0


def moved(kind: str, source: np.ndarray, target: np.ndarray, strength: float = 1.0) -> np.ndarray:
    weight, bias = fit_map(kind, source, target, strength)
    return target * weight + bias if weight.ndim == 1 else target @ weight + bias


@pytest.mark.parametrize("kind", KINDS)
def test_the_means_become_equal(kind) -> None:
    source, target = domains()
    np.testing.assert_allclose(moved(kind, source, target).mean(0), source.mean(0), atol=1e-8)


def test_each_kind_makes_equal_what_it_names() -> None:
    source, target = domains()
    found = {kind: moved(kind, source, target) for kind in KINDS}
    np.testing.assert_allclose(found["moments"].var(0), source.var(0), rtol=0.1)
    for kind in ("coral", "linear_ot"):  # up to the shrinkage of the covariances
        np.testing.assert_allclose(np.cov(found[kind].T), np.cov(source.T), atol=0.05)
    np.testing.assert_allclose(
        found["centre"] - target, source.mean(0) - target.mean(0) + 0 * target
    )


def test_linear_ot_is_the_optimal_transport_between_normal_distributions() -> None:
    """Against the closed form of the Bures-Wasserstein distance; no other map is shorter."""
    from scipy.linalg import sqrtm

    source, target = domains(20_000)
    c_s, c_t = np.cov(source.T), np.cov(target.T)
    root = sqrtm(c_t)
    cross = np.trace(c_s + c_t - 2 * sqrtm(root @ c_s @ root)).real
    shift = np.square(source.mean(0) - target.mean(0)).sum()
    costs = {
        kind: np.square(moved(kind, source, target) - target).sum(1).mean()
        for kind in ("coral", "linear_ot")
    }
    assert costs["linear_ot"] == pytest.approx(cross + shift, rel=2e-3)
    assert costs["coral"] - shift > 1.05 * cross


def test_subspace_rotates_the_directions_of_the_target(monkeypatch) -> None:
    monkeypatch.setattr(alignment, "DIRECTIONS", 2)
    g = np.random.default_rng(0)
    plane = g.normal(size=(500, 2)) * [3.0, 1.0]
    source = np.concatenate([plane, np.zeros((500, 2))], axis=1)
    angle = 0.4
    turn = np.eye(4)
    turn[np.ix_([0, 2], [0, 2])] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    found = moved("subspace", source, source @ turn + 5.0)
    assert np.abs((found - source.mean(0))[:, 2:]).max() < 1e-8  # only directions of the source
    corr = np.corrcoef(found[:, 0], source[:, 0])[0, 1]
    assert abs(corr) > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_strength_moves_in_proportion(kind) -> None:
    source, target = domains(200)
    none, half, all_ = (moved(kind, source, target, a) for a in (0.0, 0.5, 1.0))
    assert np.array_equal(none, target)
    np.testing.assert_allclose(half, (target + all_) / 2, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_few_samples_and_constant_features_give_finite_maps(kind) -> None:
    source, target = domains(3, width=6)
    source[:, 0] = target[:, 1] = 7.0
    assert np.isfinite(moved(kind, source, target)).all()
    constant = np.ones((3, 6))
    assert np.isfinite(moved(kind, constant, constant)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_leaves_the_source_unchanged(kind) -> None:
    source, target = (x.astype(np.float32) for x in domains(50))
    layer = FeatureAlignment(5, kind, 1.0, samples=50)
    both = torch.from_numpy(np.concatenate([source, target]))
    set_batch_domains([layer], [("source", 50), ("target", 50)])
    assert torch.equal(layer(both), both)  # before it is fitted
    layer.fit(source, target)
    out = layer(both)
    assert torch.equal(out[:50], both[:50])
    np.testing.assert_allclose(out[50:].numpy(), moved(kind, source, target), rtol=1e-3, atol=1e-4)
    assert layer.target.weight.ndim == (1 if kind in DIAGONAL else 2)
    layer.reset()
    assert torch.equal(layer(both), both)


def test_a_feature_that_is_constant_in_the_target_is_not_blown_up() -> None:
    source, target = domains(200)
    target[:, 0] = 0.0
    weight, _ = fit_map("moments", source, target, 1.0)
    assert weight[0] < 20


def test_unusable_features_are_reported() -> None:
    source, target = domains(20)
    layer = FeatureAlignment(5, "moments", 1.0, samples=50)
    with pytest.raises(DataError, match="needs at least 2 training images of the target, got 1;"):
        layer.fit(source, target[:1])
    target[3, 2] = np.nan
    with pytest.raises(DataError, match="gives features of the target that are not finite; set"):
        layer.fit(source, target)
    assert not layer.measured


@pytest.mark.parametrize("kind", KINDS)
def test_covariances_of_few_images_are_announced(kind, recwarn) -> None:
    source, target = domains(9)
    FeatureAlignment(5, kind, 1.0, samples=50).fit(source, target)
    found = [str(one.message) for one in recwarn]
    expected = "estimates covariances of 5 features from 9 images, which can lower the accuracy"
    assert any(expected in one for one in found) == (kind in ("coral", "linear_ot"))


def test_a_layer_of_16_bits_gives_32() -> None:
    layer = FeatureAlignment(5, "coral", 1.0, samples=50).to(torch.bfloat16)
    assert layer(torch.ones(2, 5, dtype=torch.bfloat16)).dtype == torch.float32


def settings(trained: str, *overrides: str):
    return config(
        "model=domain_adaptation", "method=[align]", f"backbone.checkpoint={trained}",
        "method.align.kind=moments", *overrides,
    )  # fmt: skip


def candidates(report) -> dict[str, dict[str, float]]:
    return {one["name"]: one["metrics"] for one in report["start"]["candidates"]}


@pytest.mark.slow
def test_a_run_without_stored_features_fits_the_same_map(tmp_path, trained) -> None:
    """The probe needs stored features; otherwise the model passes the images itself."""
    found = []
    for name, start in (("stored", "probe"), ("images", "random")):
        training.fit(
            settings(trained, f"head_init={start}", "selection=last", "backbone.lr_factor=0"),
            tmp_path / name,
        )
        state = weights(tmp_path / name / "checkpoints" / "last.ckpt")
        assert state["task.head.alignment.measured"]
        found.append(state["task.head.alignment.target.bias"])
    assert found[0].abs().max() > 0 or found[1].abs().max() > 0
    if found[0].abs().max() > 0:  # the probe may have rejected the map
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_strength_0_is_the_frozen_probe(tmp_path, trained) -> None:
    report = training.fit(
        settings(trained, "head_init=probe", "method.align.strength=0", "model.relative_bn=false"),
        tmp_path,
    )
    found = candidates(report)
    assert list(found) == ["frozen probe", "probe, align"]
    assert found["probe, align"] == found["frozen probe"]


@pytest.mark.slow
def test_the_checkpoint_of_a_run_maps_the_target(tmp_path, trained) -> None:
    report = training.fit(
        settings(trained, "head_init=probe", "optimizer.lr=0", "method=[relative_bn,align]",
                 "selection=last"),
        tmp_path,
    )  # fmt: skip
    net = loading.load(tmp_path / "checkpoints" / "last.ckpt")
    assert net.alignment is not None
    start = candidates(report)[report["start"]["chosen"]]
    for name, value in start.items():
        assert report["metrics"][name] == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
def test_a_teacher_gets_the_map(tmp_path, trained) -> None:
    run = validation.check(
        settings(trained, "method=[align,self_training]", "head_init=random", "cache.features=off")
    )
    parts = building.build(run, tmp_path)
    parts.module.align(parts.data)
    assert parts.module.alignment.measured
    assert same(parts.module.task.state_dict(), parts.module.teacher.task.state_dict())


@pytest.mark.slow
def test_a_resumed_run_keeps_the_map(tmp_path, trained, monkeypatch) -> None:
    overrides = ("head_init=random", "cache.features=off", "selection=last")
    training.fit(settings(trained, *overrides), tmp_path)
    before = weights(tmp_path / "checkpoints" / "last.ckpt")
    monkeypatch.setattr(
        "tl_lightning.models.adaptation.DomainAdaptation.align",
        lambda *_: pytest.fail("fitted again"),
    )
    training.fit(settings(trained, *overrides, "resume=auto", "trainer.max_epochs=3"), tmp_path)
    after = weights(tmp_path / "checkpoints" / "last.ckpt")
    key = "task.head.alignment.target.bias"
    assert torch.equal(before[key], after[key])


@pytest.mark.slow
def test_adds_no_loss_and_rejects_invalid_settings(trained, tmp_path) -> None:
    sizes = {"in_features": 4, "num_classes": 2}
    method = Align(kind="centre", strength=1.0, samples=8, **sizes)
    assert method({}, Context()) == {}
    for override, message in {
        "method.align.strength=1.5": r"strength=1.5 is not in \[0, 1\]; set method.align.strength",
        "method.align.samples=1": r"samples=1 must be at least 2; set method.align.samples=1000",
        "method.align.kind=pca": r"method.align.kind=pca",
        "backbone.checkpoint=null": r"maps the features of a trained network, but the backbone ha",
    }.items():
        with pytest.raises(ConfigError, match=message):
            validation.check(settings(trained, override))
    task = nn.Module()
    task.head = nn.Module()
    task.head.alignment = nn.Identity()
    method.modify_network(nn.Linear(1, 1), task)
    with pytest.raises(ConfigError, match=r"method=\[align\] is in use twice; remove one of them"):
        method.modify_network(nn.Linear(1, 1), task)


@pytest.mark.slow
def test_needs_the_head_of_this_project(trained) -> None:
    from dataclasses import replace

    from tl_lightning.config.instantiate import Node

    run = validation.check(settings(trained, "head_init=random"))
    run = replace(run, nodes={**run.nodes, "head": Node("head", nn.Linear)})
    found = list(Align.check_run("method.align", {}, run))
    assert "method=[align] maps the inputs of Head, but the head is" in found[0]


class OtherOrder(Head):
    def forward(self, features):
        return super().forward(features.relu())


def test_needs_a_head_with_the_usual_order_of_layers(trained) -> None:
    from dataclasses import replace

    from tl_lightning.config.instantiate import Node
    from tl_lightning.config.validation.start import head_init_problems

    run = validation.check(settings(trained, "head_init=random"))
    nodes = {**run.nodes, "head": Node("head", OtherOrder)}
    run = replace(run, nodes=nodes, head_init="probe")
    assert "maps the inputs of Head" in next(Align.check_run("method.align", {}, run))
    assert "fits a tl_lightning.tasks.head.Head" in next(head_init_problems(run, sharded=False))


@pytest.mark.slow
def test_a_run_cannot_start_from_layers_for_two_domains_without_them(trained, tmp_path) -> None:
    training.fit(settings(trained, "head_init=random", "selection=last"), tmp_path / "a")
    message = "has layers for two domains in its head and this run has not"
    with pytest.raises(CheckpointError, match=message):
        training.fit(config("model=fine_tuning", f"init={tmp_path / 'a'}"), tmp_path / "b")


def test_needs_a_datamodule(trained) -> None:
    run = validation.check(settings(trained, "head_init=random"))
    net = building.build_module(run, tuple("ab"), pretrained=False)
    with pytest.raises(DataError, match="measures both domains before training; pass a datamodule"):
        net.align(None)
