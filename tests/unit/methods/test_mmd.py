"""MMD against its definition with explicit loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import PENALTY, D, N, arrays, built, context, gaussian, gradients, views
from tl_lightning.methods.components.kernels import gaussian_kernel
from tl_lightning.methods.mmd import MMD

MULTIPLIERS = [0.5, 1.0, 2.0]


def reference(kernel, n, unbiased):
    """Return the MMD from the three mean kernel values over pairs."""
    total = len(kernel)
    within_s = [kernel[i, j] for i in range(n) for j in range(n) if not (unbiased and i == j)]
    within_t = [
        kernel[i, j] for i in range(n, total) for j in range(n, total) if not (unbiased and i == j)
    ]
    across = [kernel[i, j] for i in range(n) for j in range(n, total)]
    return np.mean(within_s) + np.mean(within_t) - 2 * np.mean(across)


@pytest.mark.parametrize("unbiased", [True, False])
def test_value(unbiased: bool) -> None:
    given = views()
    a = arrays(given)
    method = built(MMD, multipliers=MULTIPLIERS, unbiased=unbiased, **PENALTY)
    result = method(given, context())["mmd"]
    kernel = gaussian(np.concatenate([a["fs"], a["ft"]]), MULTIPLIERS)
    assert result.item() == pytest.approx(reference(kernel, N, unbiased), rel=1e-4, abs=1e-7)


def test_zero_for_equal_samples_and_large_for_distant_ones() -> None:
    given = views(6, 6)
    given["target"].features = given["source"].features
    method = built(MMD, multipliers=MULTIPLIERS, unbiased=False, **PENALTY)
    assert method(given, context())["mmd"].item() == pytest.approx(0.0, abs=1e-6)
    given["target"].features = given["source"].features + 100
    assert method(given, context())["mmd"].item() > 0.5


def test_gradient_is_finite_for_identical_samples() -> None:
    given = views(4, 4)
    parts = [torch.ones(4, D, requires_grad=True) for _ in given]
    for view, part in zip(given.values(), parts, strict=True):
        view.features = part
    method = built(MMD, multipliers=MULTIPLIERS, unbiased=True, **PENALTY)
    terms = method(given, context())
    assert terms["mmd"].item() == pytest.approx(0.0, abs=1e-6)
    for gradient in gradients(terms, *parts):
        assert torch.isfinite(gradient).all()


def test_gradient_step_brings_the_domains_closer() -> None:
    given = views(20, 20)
    method = built(MMD, multipliers=MULTIPLIERS, unbiased=True, **PENALTY)
    source, target = given["source"].features, given["target"].features
    of_source, of_target = gradients(method(given, context()), source, target)
    apart = (target - source).mean(0)
    updated = (target - 10 * of_target - source + 10 * of_source).mean(0)
    assert updated.norm() < apart.norm()


def test_the_width_has_no_gradient() -> None:
    """Otherwise the kernel would be invariant to scale."""
    x = torch.randn(4, D, requires_grad=True)
    free = torch.autograd.grad(gaussian_kernel(x, [1.0]).sum(), x)[0]
    distances = torch.cdist(x, x).square()
    width = float(distances.detach().sum() / 12)
    fixed = torch.autograd.grad(gaussian_kernel(x, [1.0], width).sum(), x)[0]
    assert torch.allclose(free, fixed, atol=1e-5)


def test_weight_and_ramp() -> None:
    given = views()
    params = {"multipliers": MULTIPLIERS, "unbiased": True, "gather": False}
    whole = built(MMD, weight=1.0, ramp="none", **params)(given, context(0.5))["mmd"]
    for ramp, factor in (("none", 1.0), ("linear", 0.5), ("sigmoid", 2 / (1 + np.exp(-5)) - 1)):
        result = built(MMD, weight=3.0, ramp=ramp, **params)(given, context(0.5))["mmd"]
        assert result.item() == pytest.approx(3 * factor * whole.item(), rel=1e-5)
