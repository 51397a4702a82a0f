"""DANN against the formulas of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import config, same, stopped_at, weights
from tl_lightning.layers import perceptron
from tl_lightning.methods.components.adversary import domain_loss
from tl_lightning.methods.components.gradient_reversal import reverse_gradient
from tl_lightning.methods.dann import DANN
from tl_lightning.schedules import sigmoid_ramp
from tl_lightning.training import fit as training
from tl_lightning.types import Context, View

PARAMS = {
    "max_lambda": 0.5, "gain": 10.0, "ramp_steps": None, "width": 8, "depth": 1, "dropout": 0.0,
    "norm": "none",
}  # fmt: skip


def dann(**params) -> DANN:
    torch.manual_seed(0)
    return DANN(in_features=6, num_classes=3, activation="relu", **{**PARAMS, **params})


def views(requires_grad=True):
    g = torch.Generator().manual_seed(1)
    parts = [torch.randn(n, 6, generator=g, requires_grad=requires_grad) for n in (5, 7)]
    return {
        r: View(f, torch.zeros(len(f), 3)) for r, f in zip(("source", "target"), parts, strict=True)
    }


def context(progress, step=0):
    logged = {}
    return Context(progress, step, logged.__setitem__, torch.nn.Identity()), logged


def test_domain_loss() -> None:
    s, t = np.array([0.3, -2.0, 5.0]), np.array([1.0, -0.5])
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    expected = -0.5 * (np.log(sigmoid(s)).mean() + np.log(1 - sigmoid(t)).mean())
    assert domain_loss(torch.tensor(s), torch.tensor(t)).item() == pytest.approx(expected, rel=1e-6)


def test_reversal_is_identity_forward_and_minus_lambda_backward() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(x, y)
    upstream = torch.randn(4, 3)
    y.backward(upstream)
    assert torch.equal(x.grad, -0.3 * upstream)


@pytest.mark.parametrize(("progress", "gain"), [(0.0, 10), (0.1, 10), (0.5, 3), (1.0, 10)])
def test_lambda_scales_only_the_gradient_of_the_features(progress: float, gain: float) -> None:
    """The discriminator has the full gradient, regardless of lambda."""
    method, given = dann(gain=gain), views()
    ctx, logged = context(progress)
    method(given, ctx)["dann"].backward()
    lam = 0.5 * (2 / (1 + np.exp(-gain * progress)) - 1)
    assert logged["lambda"] == pytest.approx(lam)
    own = [p.grad.clone() for p in method.parameters()]
    of_features = given["source"].features.grad
    # The same loss without gradient reversal:
    method.zero_grad()
    plain = views()
    joined = torch.cat([plain["source"].features, plain["target"].features])
    logits = method.domain_logits(joined, None)
    domain_loss(logits[:5], logits[5:]).backward()
    for a, b in zip(own, method.parameters(), strict=True):
        assert torch.allclose(a, b.grad, atol=1e-7)
    assert torch.allclose(of_features, -lam * plain["source"].features.grad, atol=1e-7)


def test_logged_accuracy_is_the_mean_over_domains() -> None:
    method, given = dann(), views()
    ctx, logged = context(1.0)
    method(given, ctx)
    logits = [method.domain_logits(given[r].features, None).detach() for r in given]
    correct = [(logits[0] > 0).numpy(), (logits[1] <= 0).numpy()]
    expected = 0.5 * (correct[0].mean() + correct[1].mean())
    assert logged["domain_acc"].item() == pytest.approx(expected)
    assert 0.5 != expected != np.concatenate(correct).mean()  # neither chance nor sample mean


def test_perceptron_has_activation_and_dropout_after_every_hidden_layer() -> None:
    net = perceptron(6, 8, 2, 0.25, "tanh", 3).eval()
    first, second, last = (layer for layer in net if isinstance(layer, torch.nn.Linear))
    x = torch.randn(4, 6)
    assert torch.equal(net(x), last(torch.tanh(second(torch.tanh(first(x))))))
    drops = [layer.p for layer in net if isinstance(layer, torch.nn.Dropout)]
    assert drops == [0.25, 0.25]


def test_batch_norm_is_over_the_joined_batch_and_before_the_activation() -> None:
    method, given = dann(norm="batch", depth=2), views(requires_grad=False)
    assert [type(layer).__name__ for layer in method.discriminator] == [
        "Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]  # fmt: skip
    x = torch.cat([given["source"].features, given["target"].features])
    linear = [layer for layer in method.discriminator if isinstance(layer, torch.nn.Linear)]
    for layer in linear[:-1]:
        y = layer(x)
        x = ((y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt()).relu()
    logits = linear[-1](x).squeeze(1)
    expected = domain_loss(logits[:5], logits[5:]).item()
    assert method(given, context(1.0)[0])["dann"].item() == pytest.approx(expected, rel=1e-5)


def test_sync_batchnorm_includes_the_discriminator() -> None:
    """As for the network, so that ranks with ``trainer.sync_batchnorm`` use the whole batch."""
    method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(dann(norm="batch"))
    assert isinstance(method.discriminator[1], torch.nn.SyncBatchNorm)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (123, 0.0614), (1000, 0.462)])
def test_ramp_over_a_number_of_steps(step: int, expected: float) -> None:
    """At any length of the run as ``2 / (1 + exp(-i / 1000)) - 1``."""
    method = dann(max_lambda=1.0, ramp_steps=10_000)
    for progress in (0.0, 1.0):
        ctx, logged = context(progress, step)
        method(views(), ctx)
        assert logged["lambda"] == pytest.approx(2 / (1 + np.exp(-step / 1000)) - 1)
        assert logged["lambda"] == pytest.approx(expected, rel=2e-3)


def test_ramp_ends_after_its_steps() -> None:
    method = dann(ramp_steps=10)
    strengths = [method.strength(Context(*position)) for position in ((0.1, 10), (1.0, 500))]
    assert strengths == [0.5 * sigmoid_ramp(1.0)] * 2


@pytest.mark.slow
def test_ramp_and_batch_norm_resume_exactly(tmp_path, monkeypatch) -> None:
    settings = ["method.dann.ramp_steps=20", "method.dann.norm=batch"]
    training.fit(config(*settings), tmp_path / "whole")
    with stopped_at(monkeypatch, 1, 1):
        training.fit(config(*settings), tmp_path / "resumed")
    training.fit(config(*settings, "resume=auto"), tmp_path / "resumed")
    a, b = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("whole", "resumed"))
    assert same(a, b)
    assert "methods.dann.discriminator.1.running_mean" in a


def test_sigmoid_ramp() -> None:
    assert sigmoid_ramp(0.0) == 0.0
    assert sigmoid_ramp(0.5) == pytest.approx(2 / (1 + np.exp(-5)) - 1)


@pytest.mark.slow
def test_lambda_zero_equals_joint_training_bit_for_bit(tmp_path) -> None:
    """Even with dropout in the discriminator, whose random draws must not affect the rest."""
    extra = ["backbone.channel_dropout=0.2", "head.dropout=0.1"]
    zero = config(*extra, "method.dann.max_lambda=0", "method.dann.dropout=0.5")
    joint = config(*extra, "model=joint_bn")
    training.fit(zero, tmp_path / "zero")
    training.fit(joint, tmp_path / "joint")
    a, b = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("zero", "joint"))
    assert same(a, b, but="methods.")


@pytest.mark.slow
def test_positive_lambda_differs_from_joint_training(tmp_path) -> None:
    one = config("method.dann.max_lambda=1")
    joint = config("model=joint_bn")
    training.fit(one, tmp_path / "one")
    training.fit(joint, tmp_path / "joint")
    a, b = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("one", "joint"))
    assert not same(a, b, but="methods.")
