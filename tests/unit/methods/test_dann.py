"""DANN against the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import config, same, weights
from tl_lightning.layers import perceptron
from tl_lightning.methods.components.adversary import domain_loss
from tl_lightning.methods.components.gradient_reversal import reverse_gradient
from tl_lightning.methods.dann import DANN
from tl_lightning.schedules import sigmoid_ramp
from tl_lightning.training import fit as training
from tl_lightning.types import Context, View

KNOBS = {"max_lambda": 0.5, "gain": 10.0, "width": 8, "depth": 1, "dropout": 0.0}


def dann(**knobs) -> DANN:
    torch.manual_seed(0)
    return DANN(in_features=6, num_classes=3, activation="relu", **{**KNOBS, **knobs})


def views(requires_grad=True):
    g = torch.Generator().manual_seed(1)
    parts = [torch.randn(n, 6, generator=g, requires_grad=requires_grad) for n in (5, 7)]
    return {
        r: View(f, torch.zeros(len(f), 3)) for r, f in zip(("source", "target"), parts, strict=True)
    }


def context(progress):
    seen = {}
    return Context(progress, 0, seen.__setitem__, torch.nn.Identity()), seen


def test_loss_against_numpy() -> None:
    s, t = np.array([0.3, -2.0, 5.0]), np.array([1.0, -0.5])
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    wanted = -0.5 * (np.log(sigmoid(s)).mean() + np.log(1 - sigmoid(t)).mean())
    assert domain_loss(torch.tensor(s), torch.tensor(t)).item() == pytest.approx(wanted, rel=1e-6)


def test_reversal_is_identity_forward_and_minus_lambda_backward() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(x, y)
    upstream = torch.randn(4, 3)
    y.backward(upstream)
    assert torch.equal(x.grad, -0.3 * upstream)


@pytest.mark.parametrize(("progress", "gain"), [(0.0, 10), (0.1, 10), (0.5, 3), (1.0, 10)])
def test_lambda_scales_only_the_gradient_into_the_features(progress: float, gain: float) -> None:
    """The discriminator learns at full strength whatever lambda is."""
    adapter, given = dann(gain=gain), views()
    ctx, seen = context(progress)
    adapter(given, ctx)["dann"].backward()
    lam = 0.5 * (2 / (1 + np.exp(-gain * progress)) - 1)
    assert seen["lambda"] == pytest.approx(lam)
    own = [p.grad.clone() for p in adapter.parameters()]
    reached = given["source"].features.grad
    # The plain discriminator loss without any reversal:
    adapter.zero_grad()
    plain = views()
    joined = torch.cat([plain["source"].features, plain["target"].features])
    logits = adapter.domain_logits(joined, None)
    domain_loss(logits[:5], logits[5:]).backward()
    for a, b in zip(own, adapter.parameters(), strict=True):
        assert torch.allclose(a, b.grad, atol=1e-7)
    assert torch.allclose(reached, -lam * plain["source"].features.grad, atol=1e-7)


def test_the_shown_accuracy_is_the_mean_of_both_domains() -> None:
    adapter, given = dann(), views()
    ctx, seen = context(1.0)
    adapter(given, ctx)
    logits = [adapter.domain_logits(given[r].features, None).detach() for r in given]
    right = [(logits[0] > 0).numpy(), (logits[1] <= 0).numpy()]
    wanted = 0.5 * (right[0].mean() + right[1].mean())
    assert seen["domain_acc"].item() == pytest.approx(wanted)
    assert 0.5 != wanted != np.concatenate(right).mean()  # neither chance nor a mean of samples


def test_the_discriminator_bends_after_every_hidden_layer() -> None:
    net = perceptron(6, 8, 2, 0.25, "tanh", 3).eval()
    first, second, last = (layer for layer in net if isinstance(layer, torch.nn.Linear))
    x = torch.randn(4, 6)
    assert torch.equal(net(x), last(torch.tanh(second(torch.tanh(first(x))))))
    drops = [layer.p for layer in net if isinstance(layer, torch.nn.Dropout)]
    assert drops == [0.25, 0.25]


def test_ramp_is_the_papers() -> None:
    assert sigmoid_ramp(0.0) == 0.0
    assert sigmoid_ramp(0.5) == pytest.approx(2 / (1 + np.exp(-5)) - 1)


def test_lambda_zero_is_joint_training_bit_for_bit(tmp_path) -> None:
    """Also with dropout in the discriminator: its random numbers disturb nothing else."""
    extra = ["backbone.channel_dropout=0.2", "head.dropout=0.1"]
    zero = config(*extra, "adapter.dann.max_lambda=0", "adapter.dann.dropout=0.5")
    joint = config(*extra, "model=joint_bn")
    training.fit(zero, tmp_path / "zero")
    training.fit(joint, tmp_path / "joint")
    a, b = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("zero", "joint"))
    assert same(a, b, but="adapters.")


def test_lambda_above_zero_is_not_joint_training(tmp_path) -> None:
    one = config("adapter.dann.max_lambda=1")
    joint = config("model=joint_bn")
    training.fit(one, tmp_path / "one")
    training.fit(joint, tmp_path / "joint")
    a, b = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("one", "joint"))
    assert not same(a, b, but="adapters.")
