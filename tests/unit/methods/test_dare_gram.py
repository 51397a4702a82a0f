"""DARE-GRAM against the equations of the paper in numpy, and the gradient of torch's pinv."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import PENALTY, D, arrays, built, context, gradients, of_features, views
from tl_lightning.losses.singular_values import gram_pseudo_inverse
from tl_lightning.methods.dare_gram import DareGram
from tl_lightning.types import View

PARAMS = PENALTY | {"angle": 0.0, "scale": 0.0, "threshold": 0.9}


def reference(source: np.ndarray, target: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return the angle and the scale term of two feature matrices with the same number of rows."""
    grams, values = [], []
    for features in (source, target):
        z = np.concatenate([np.ones((len(features), 1)), features], 1)
        grams.append(z.T @ z)
        values.append(np.linalg.svd(grams[-1], compute_uv=False))
    fractions = [np.cumsum(value) / value.sum() for value in values]
    k = max(np.flatnonzero(f <= max(threshold, f[1]))[-1] for f in fractions)
    between = [np.sqrt(v[k - 1] * max(v[k], 1e-9)) / v[0] for v in values]  # keeps k of them
    pinvs = [np.linalg.pinv(g, rcond=rest) for g, rest in zip(grams, between, strict=True)]
    cosines = (pinvs[0] * pinvs[1]).sum(0) / np.prod([np.linalg.norm(p, axis=0) for p in pinvs], 0)
    return np.abs(1 - cosines).mean(), np.linalg.norm(values[0][:k] - values[1][:k]) / k


@pytest.mark.parametrize("rows", [4, 20])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
@pytest.mark.parametrize("longest", [None, "source", "target"])
def test_terms_are_those_of_the_paper(rows, threshold, longest) -> None:
    given = views(rows, rows)
    if longest:  # the domains differ in the number of eigenvalues
        factors = torch.tensor([6.0] + [1.0] * (D - 1))
        given[longest].features = (given[longest].features * factors).detach()
    a = arrays(given)
    angle, scale = reference(a["fs"], a["ft"], threshold)
    for key, expected in (("angle", angle), ("scale", scale)):
        found = built(DareGram, **PARAMS | {"threshold": threshold, key: 1.0})(given, context())
        assert found["daregram"].item() == pytest.approx(expected, rel=1e-3), key


def test_gradient_of_the_pseudo_inverse_is_that_of_torch() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(7, 5, generator=g, dtype=torch.float64).requires_grad_()
    weights = torch.randn(5, 5, generator=g, dtype=torch.float64)
    values = torch.linalg.svdvals(z).detach().square()
    torchs = torch.linalg.pinv(z.T @ z, rtol=0.5 * (values[2] + values[3]) / values[0])
    own = gram_pseudo_inverse(z, 3)
    torch.testing.assert_close(own, torchs)
    expected = torch.autograd.grad((weights * torchs).sum(), z)[0]
    torch.testing.assert_close(torch.autograd.grad((weights * own).sum(), z)[0], expected)


def test_domains_of_other_sizes_are_scaled_to_the_same() -> None:
    given = views(6, 6)
    source, target = given["source"], given["target"]
    twice = View(target.features.repeat(2, 1), target.logits.repeat(2, 1))
    method = built(DareGram, **PARAMS | {"angle": 1.0, "scale": 1.0})
    values = [
        method({"source": source, "target": part}, context())["daregram"].item()
        for part in (target, twice)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert method({"source": source, "target": source}, context())["daregram"].abs() < 1e-5


CASES = {
    "equal eigenvalues": (torch.eye(D), torch.eye(D)),
    "repeated samples": (torch.ones(4, D), torch.randn(4, D)),
    "zero": (torch.zeros(4, D), torch.zeros(4, D)),
    "tiny": (1e-20 * torch.randn(4, D), torch.randn(4, D)),
    "large": (1e8 * torch.randn(4, D), torch.randn(4, D)),
    "two samples": (torch.randn(2, D), torch.randn(2, D)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_finite(name) -> None:
    parts = [part.clone().requires_grad_() for part in CASES[name]]
    given = of_features(*parts)
    with torch.autocast("cpu", torch.bfloat16):
        terms = built(DareGram, **PARAMS | {"angle": 1.0, "scale": 1.0})(given, context())
    for gradient in gradients(terms, *parts):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("key", ["angle", "scale"])
def test_a_step_decreases_each_term(key) -> None:
    given = views(12, 12)
    method = built(DareGram, **PARAMS | {key: 1.0})
    before = method(given, context())
    parts = [given[name].features for name in ("source", "target")]
    for view, part, gradient in zip(given.values(), parts, gradients(before, *parts), strict=True):
        view.features = part - 0.02 * gradient
    assert method(given, context())["daregram"] < before["daregram"]
