"""Relative batch norm: pretrained statistics, moved for the target as the domains differ."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from helpers import config, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation import load as loading
from tl_lightning.methods.components.domain_norm import set_batch_domains, state_of_domain
from tl_lightning.methods.components.relative_norm import Moments, RelativeBatchNorm
from tl_lightning.methods.relative_bn import RelativeBN
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.types import Context


def settings(trained: str, *overrides: str):
    return config("model=domain_adaptation", "method=[relative_bn]", f"init={trained}", *overrides)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(3, 4, 3)
        for norm in (self.one, self.two):
            nn.init.uniform_(norm.weight)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x):
        return self.two(self.conv(self.one(x)).relu())


def measured(strength: float, batches: int = 1) -> tuple[TwoLayers, torch.Tensor, torch.Tensor]:
    """Return a measured network, and the samples of both domains."""
    net = TwoLayers().eval()
    method = RelativeBN(strength=strength, samples=8, required=True, in_features=4, num_classes=2)
    method.modify_network(net, nn.Identity())
    g = torch.Generator().manual_seed(1)
    source, target = torch.randn(16, 3, 6, 6, generator=g), torch.randn(24, 3, 6, 6, generator=g)
    target = 0.5 * target + 1.0
    norms = [m for m in net.modules() if isinstance(m, RelativeBatchNorm)]
    with torch.no_grad():
        for domain, samples in (("source", source), ("target", target)):
            for norm in norms:
                norm.measure(domain)
            for part in samples.chunk(batches):
                set_batch_domains(norms, [(domain, len(part))])
                net(part)
    for norm in norms:
        norm.finish()
    return net, source, target


def statistics(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    array = x.double().numpy()
    return array.mean((0, 2, 3)), array.var((0, 2, 3))


def test_the_statistics_move_by_the_difference_of_the_domains() -> None:
    """Against NumPy, layer by layer: later layers see inputs that have been moved."""
    net, source, target = measured(strength=0.7)
    plain = TwoLayers().eval()
    inputs = {"source": source, "target": target}
    with torch.no_grad():
        for name in ("one", "two"):
            kept, moved = getattr(plain, name), getattr(net, name).target
            (m_s, v_s), (m_t, v_t) = statistics(inputs["source"]), statistics(inputs["target"])
            mean = kept.running_mean.numpy() + 0.7 * (m_t - m_s)
            var = kept.running_var.numpy() * ((v_t + kept.eps) / (v_s + kept.eps)) ** 0.7
            np.testing.assert_allclose(moved.running_mean.numpy(), mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(moved.running_var.numpy(), var, rtol=1e-4, atol=1e-5)
            out = {"source": kept(inputs["source"]), "target": moved(inputs["target"])}
            inputs = (
                {domain: plain.conv(x).relu() for domain, x in out.items()} if name == "one" else {}
            )


def test_the_source_is_unchanged_and_strength_0_changes_nothing() -> None:
    plain = TwoLayers().eval()
    for strength, domains in ((1.0, ["source"]), (0.0, ["source", "target"])):
        net, source, target = measured(strength)
        norms = [m for m in net.modules() if isinstance(m, RelativeBatchNorm)]
        for domain in domains:
            samples = source if domain == "source" else target
            set_batch_domains(norms, [(domain, len(samples))])
            assert torch.equal(net(samples), plain(samples))
    net, _, target = measured(1.0)
    set_batch_domains([net.one, net.two], [("target", len(target))])
    assert not torch.allclose(net(target), plain(target), atol=0.1)


def test_training_mode_changes_no_statistics() -> None:
    net, source, _ = measured(1.0)
    before = copy.deepcopy(net.state_dict())
    net.train()
    set_batch_domains([net.one, net.two], [("source", 8), ("target", 8)])
    net(source)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_moments_over_batches_equal_those_of_all() -> None:
    g = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(30, 5, 4, 4, generator=g)
    moments = Moments()
    for part in x.split([2, 17, 11]):
        moments.add(part)
    mean, var = statistics(x)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(moments.var, var, rtol=1e-5)


def test_state_of_a_domain_has_the_names_of_the_plain_network() -> None:
    net, _, _ = measured(1.0)
    plain = TwoLayers().state_dict()
    source, target = (dict(state_of_domain(net, name)) for name in ("source", "target"))
    assert source.keys() == target.keys() == plain.keys()
    assert all(torch.equal(source[key], plain[key]) for key in plain)
    assert not torch.equal(target["one.running_mean"], plain["one.running_mean"])


@pytest.mark.slow
def test_a_run_measures_once_and_keeps_the_source(tmp_path, trained) -> None:
    training.fit(settings(trained), tmp_path / "run")
    net = loading.load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    norms = [m for m in net.modules() if isinstance(m, RelativeBatchNorm)]
    assert norms
    start = weights(f"{trained}/checkpoints/last.ckpt")
    for name, norm in net.backbone.named_modules():
        if isinstance(norm, RelativeBatchNorm):
            assert norm.measured
            assert torch.equal(norm.source.running_mean, start[f"backbone.{name}.running_mean"])
            assert not torch.equal(norm.target.running_mean, norm.source.running_mean)


@pytest.mark.slow
def test_stored_statistics_are_used_again(tmp_path, trained, monkeypatch) -> None:
    training.fit(settings(trained), tmp_path / "a")
    monkeypatch.setattr(
        "tl_lightning.models.adaptation.DomainAdaptation.measure",
        lambda *_: pytest.fail("measured again"),
    )
    training.fit(settings(trained), tmp_path / "b")
    a, b = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(pytest.fail.Exception):  # other settings are measured anew
        training.fit(settings(trained, "method.relative_bn.strength=0.3"), tmp_path / "c")


def test_adds_no_loss_and_rejects_invalid_settings(trained) -> None:
    method = RelativeBN(strength=1.0, samples=8, required=True, in_features=4, num_classes=2)
    assert method({}, Context()) == {}
    for override, message in {
        "method.relative_bn.strength=1.5": r"strength=1.5 is not in \[0, 1\]; set method.relative",
        "method.relative_bn.samples=1": r"samples=1 must be at least 2; set method.relative_bn.sa",
    }.items():
        with pytest.raises(ConfigError, match=message):
            validation.check(settings(trained, override))
    message = r"method=\[relative_bn\] moves the batch-norm statistics of a trained network, but"
    with pytest.raises(ConfigError, match=message):
        validation.check(config("model=domain_adaptation", "method=[relative_bn]"))
    bare = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="requires batch norm, but Sequential has none; use a"):
        method.modify_network(bare, nn.Identity())


@pytest.mark.slow
def test_needs_a_datamodule_to_measure(trained) -> None:
    net = building.build_module(validation.check(settings(trained)), tuple("ab"), pretrained=False)
    with pytest.raises(DataError, match="measures both domains before training; pass a datamodule"):
        net.measure(None)
