"""RSD against principal angles of scipy, and its gradient where those of torch are infinite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from methods import PENALTY, K, arrays, context, gradients, of_features
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.methods.rsd import RSD
from tl_lightning.training.build import build_module
from tl_lightning.types import View

WIDTH, SAMPLES = 12, 5


def views(seed: int = 0) -> dict[str, View]:
    """Return features of five samples of each domain, of width 12."""
    g = torch.Generator().manual_seed(seed)
    parts = [torch.randn(SAMPLES, WIDTH, generator=g).requires_grad_() for _ in "st"]
    logits = torch.zeros(SAMPLES, K)
    labels = torch.zeros(SAMPLES, dtype=torch.int64)
    return {"source": View(parts[0], logits, labels), "target": View(parts[1], logits)}


def method(mismatch: float = 0.0, **params) -> RSD:
    return RSD(in_features=WIDTH, num_classes=K, **(PENALTY | {"mismatch": mismatch} | params))


def test_angles_are_those_of_scipy() -> None:
    given = views()
    a = arrays(given)
    expected = np.sin(subspace_angles(a["fs"].T, a["ft"].T)).sum()
    assert method()(given, context())["rsd"].item() == pytest.approx(expected, rel=1e-4)


def test_mismatch_is_that_of_the_bases() -> None:
    given = views()
    a = arrays(given)
    bases = [np.linalg.svd(a[name].T, full_matrices=False)[0] for name in ("fs", "ft")]
    p_s, _, p_t = np.linalg.svd(bases[0].T @ bases[1])
    expected = np.linalg.norm(np.abs(p_s) - np.abs(p_t.T))
    found = [method(mismatch)(given, context())["rsd"].item() for mismatch in (0.0, 0.5)]
    assert found[1] - found[0] == pytest.approx(0.5 * expected, rel=1e-3)


def test_scale_of_the_features_does_not_count_but_their_directions_do() -> None:
    given = views()
    before = method(0.1)(given, context())["rsd"].item()
    given["target"].features = 7.0 * given["target"].features
    assert method(0.1)(given, context())["rsd"].item() == pytest.approx(before, rel=1e-3)
    given["target"].features = 3.0 * given["source"].features.flip(0)
    same = method()(given, context())["rsd"].item()
    assert same == pytest.approx(SAMPLES * 1e-3, rel=0.1)  # the smallest sines


def test_gradient_is_that_of_torch_where_it_is_exact() -> None:
    given = views(3)
    for view in given.values():
        view.features = view.features.detach().double().requires_grad_()
    parts = [given[name].features for name in ("source", "target")]
    own = torch.autograd.grad(method(0.3).loss(given, context()), parts)
    bases = [torch.linalg.svd(part.T, full_matrices=False)[0] for part in parts]
    p_s, cosines, p_t = torch.linalg.svd(bases[0].T @ bases[1])
    exact = (1 - cosines**2).sqrt().sum() + 0.3 * (p_s.abs() - p_t.T.abs()).norm()
    for found, expected in zip(own, torch.autograd.grad(exact, parts), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-3)


CASES = {
    "equal singular values": (torch.eye(SAMPLES, WIDTH), torch.eye(WIDTH)[-SAMPLES:]),
    "repeated samples": (torch.ones(SAMPLES, WIDTH), torch.randn(SAMPLES, WIDTH)),
    "same samples": (torch.arange(60.0).view(SAMPLES, WIDTH).sin(),) * 2,
    "zero": (torch.zeros(SAMPLES, WIDTH), torch.randn(SAMPLES, WIDTH)),
    "tiny": (1e-20 * torch.randn(SAMPLES, WIDTH), torch.randn(SAMPLES, WIDTH)),
    "other numbers of samples": (torch.randn(2, WIDTH), torch.randn(SAMPLES, WIDTH)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_finite(name) -> None:
    parts = [part.clone().requires_grad_() for part in CASES[name]]
    given = of_features(*parts)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(0.1)(given, context())
    assert terms["rsd"].dtype == torch.float32
    for gradient in gradients(terms, *parts):
        assert torch.isfinite(gradient).all()


def test_a_step_decreases_the_distance() -> None:
    given = views()
    before = method()(given, context())
    parts = [given[name].features for name in ("source", "target")]
    for view, part, gradient in zip(given.values(), parts, gradients(before, *parts), strict=True):
        view.features = part - 0.1 * gradient
    assert method()(given, context())["rsd"] < before["rsd"]


def test_batches_too_large_for_the_features_are_refused() -> None:
    from helpers import config

    plain = config("model=domain_adaptation", "method=[rsd]", "head.bottleneck=16")
    message = (
        r"method=\[rsd\] compares the subspaces .* at most half of the 16 dimensions of the "
        r"features, but data.batch_size=16; set data.batch_size=8 or less"
    )
    with pytest.raises(ConfigError, match=message):
        build_module(validation.check(plain), ("a", "b"))
    narrow = config("model=domain_adaptation", "method=[rsd]", "head.bottleneck=1")
    with pytest.raises(ConfigError, match=r"data.batch_size=16; set wider features, or method"):
        build_module(validation.check(narrow), ("a", "b"))
