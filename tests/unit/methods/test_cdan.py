"""CDAN against the formulas of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import D, K, N, arrays, built, context, entropy, gradients, views
from tl_lightning.methods.cdan import CDAN, certainty

PARAMS = {"max_lambda": 0.5, "gain": 3.0, "ramp_steps": None, "width": 8, "depth": 1,
         "dropout": 0.0, "norm": "none", "activation": "relu", "entropy": False,
         "largest": 4096}  # fmt: skip


def test_the_discriminator_input_is_the_outer_product() -> None:
    given = views()
    a = arrays(given)
    method = built(CDAN, **PARAMS)
    mapped = method.seen(given["source"].features, given["source"].logits)
    expected = np.einsum("bk,bd->bkd", a["ps"], a["fs"]).reshape(N, K * D)
    assert np.allclose(mapped.detach().numpy(), expected, atol=1e-6)


def test_only_features_have_a_reversed_gradient() -> None:
    given = views()
    method = built(CDAN, **PARAMS)
    parts = [given["target"].features, given["target"].logits]
    of_features, of_logits = gradients(method(given, context(0.5)), *parts)
    assert of_logits is None
    # The same loss without gradient reversal:
    joined = [given[r] for r in ("source", "target")]
    plain = [method.domain_logits(v.features, v.logits) for v in joined]
    loss = 0.5 * (
        torch.nn.functional.softplus(-plain[0]).mean()
        + torch.nn.functional.softplus(plain[1]).mean()
    )
    plain_gradient = torch.autograd.grad(loss, parts[0])[0]
    lam = 0.5 * (2 / (1 + np.exp(-3.0 * 0.5)) - 1)
    assert torch.allclose(of_features, -lam * plain_gradient, atol=1e-7)


def test_random_map_preserves_inner_products_in_expectation() -> None:
    """E <m(f, g), m(f', g')> = <f, f'> <g, g'> (section 3.3 of the paper)."""
    wide = {**PARAMS, "largest": 17}  # below D K = 18: the random map
    given = views()
    f, g = given["source"].features.detach(), given["source"].logits.detach()
    products = []
    for seed in range(400):
        torch.manual_seed(seed)
        method = CDAN(in_features=D, num_classes=K, **wide)
        mapped = method.seen(f, g)
        assert mapped.shape == (N, 17)
        products.append(mapped @ mapped.T)
    expected = (f @ f.T) * (g.softmax(1) @ g.softmax(1).T)
    result = torch.stack(products).mean(0)
    assert (result - expected).abs().max() < 0.15 * expected.abs().max()
    names = dict(method.named_buffers())
    assert {"of_features", "of_shares"} <= names.keys()  # saved with the model


def test_entropy_weights() -> None:
    given = views(scale=3.0)
    a = arrays(given)
    raw = 1 + np.exp(-entropy(a["pt"]))
    result = certainty(given["target"].logits)
    assert np.allclose(result.detach().numpy(), raw / raw.mean(), atol=1e-5)
    method = built(CDAN, **{**PARAMS, "entropy": True})
    logits = [
        method.domain_logits(given[r].features, given[r].logits).detach().double().numpy()
        for r in ("source", "target")
    ]
    weights = [1 + np.exp(-entropy(a[name])) for name in ("ps", "pt")]
    losses = [np.logaddexp(0, -logits[0]), np.logaddexp(0, logits[1])]
    expected = 0.5 * sum(np.average(x, weights=w) for x, w in zip(losses, weights, strict=True))
    assert method(given, context())["cdan"].item() == pytest.approx(expected, rel=1e-5)
    plain = built(CDAN, **PARAMS)(given, context())["cdan"].item()
    assert plain == pytest.approx(0.5 * sum(x.mean() for x in losses), rel=1e-5)
