"""What every method in conf/adapter must keep, found by looking there: a new one is picked up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import REPO
from helpers import config, evaluated, same, weights
from tl_lightning import pipeline
from tl_lightning.data.digits import Digits
from tl_lightning.types import Context, View

ADAPTERS = sorted(path.stem for path in (REPO / "conf" / "adapter").glob("*.yaml"))


def module(*overrides: str, classes: int = 10) -> pipeline.TransferModule:
    checked = pipeline.check(config(*overrides))
    return pipeline.build_module(checked, tuple(map(str, range(classes))))


def batch(seed: int = 0, n: int = 12) -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    pictures = [torch.randint(0, 256, (n, 3, 16, 16), generator=g, dtype=torch.uint8) for _ in "st"]
    labels = torch.randint(0, 10, (n,), generator=g)
    return {
        "source": {"inputs": pictures[0], "labels": labels, "index": torch.arange(n)},
        "target": {"inputs": pictures[1], "index": torch.arange(n)},
    }


def terms_and_features(net, forward="joint", progress=0.7):
    captured = {}
    views = net.views(batch())
    for role, view in views.items():
        view.features.retain_grad()
        captured[role] = view.features
    out = {}
    for adapter in net.adapters.values():
        ctx = Context(progress=progress, step=5, log=lambda *_: None)
        out.update(adapter(views, ctx))
    return out, captured


def arguments(name: str) -> list[str]:
    return ["model=domain_adaptation", f"adapter=[{name}]"]


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("forward", ["joint", "separate"])
def test_gradient_reaches_the_backbone_from_the_target(name: str, forward: str) -> None:
    net = module(*arguments(name), f"model.forward={forward}").train()
    torch.manual_seed(0)
    terms, features = terms_and_features(net)
    torch.stack(list(terms.values())).sum().backward()
    if forward == "separate":
        assert features["target"].grad is not None
        assert features["target"].grad.abs().sum() > 0
    first = next(net.backbone.parameters())
    assert first.grad is not None, f"{name}: no gradient of its terms reaches the backbone"
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ADAPTERS)
def test_terms_are_finite_in_bfloat16(name: str) -> None:
    net = module(*arguments(name)).train()
    with torch.autocast("cpu", torch.bfloat16):
        terms, _ = terms_and_features(net)
    assert terms
    for key, value in terms.items():
        assert value.ndim == 0
        assert torch.isfinite(value), key


@pytest.mark.parametrize("name", ADAPTERS)
def test_views_of_the_target_hold_no_labels(name: str) -> None:
    net = module(*arguments(name))
    assert net.views(batch())["target"].labels is None


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_parameter_is_in_exactly_one_named_group(name: str) -> None:
    net = module(*arguments(name))
    grouped = [id(p) for ps, _ in net.parameter_groups().values() for p in ps]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize("name", ADAPTERS)
def test_permuted_target_labels_change_nothing(name, tmp_path, monkeypatch) -> None:
    """No label of target train, validation or test moves a weight or the chosen epoch."""
    settings = config(*arguments(name), "selection=im")
    plain = pipeline.fit(settings, tmp_path / "plain")
    honest = Digits.domains

    def lying(self):
        found = honest(self)
        rng = np.random.default_rng(1)
        for split in ("train", "val", "test"):
            labels = getattr(found["target"], split).labels
            labels[:] = rng.permutation(labels)
        return found

    monkeypatch.setattr(Digits, "domains", lying)
    lied = pipeline.fit(settings, tmp_path / "lied")
    assert plain["metrics"] != lied["metrics"]  # the test does see the permuted labels
    assert plain["selection"] == lied["selection"]
    for file in (plain["selection"]["checkpoint"], "checkpoints/last.ckpt"):
        assert same(weights(tmp_path / "plain" / file), weights(tmp_path / "lied" / file))


@pytest.mark.parametrize("name", ADAPTERS)
def test_checkpoint_loads_and_predicts_the_same(name, tmp_path) -> None:
    settings = config(*arguments(name), "trainer.max_epochs=1")
    report = pipeline.fit(settings, tmp_path)
    loaded = pipeline.load(tmp_path / report["selection"]["checkpoint"])
    found = pipeline.evaluate(tmp_path / report["selection"]["checkpoint"], None, None)
    assert found["metrics"] == evaluated(report)
    assert list(loaded.adapters) == [name]


def test_a_view_has_what_the_protocol_says() -> None:
    view = View(torch.zeros(2, 3), torch.zeros(2, 4))
    assert view.labels is None
