"""CDAN against the paper's maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import D, K, N, arrays, built, context, entropy, gradients, views
from tl_lightning.methods.cdan import CDAN, certainty

KNOBS = {"max_lambda": 0.5, "gain": 3.0, "width": 8, "depth": 1, "dropout": 0.0,
         "activation": "relu", "entropy": False, "largest": 4096}  # fmt: skip


def test_the_discriminator_sees_the_outer_product() -> None:
    given = views()
    a = arrays(given)
    method = built(CDAN, **KNOBS)
    seen = method.seen(given["source"].features, given["source"].logits)
    wanted = np.einsum("bk,bd->bkd", a["ps"], a["fs"]).reshape(N, K * D)
    assert np.allclose(seen.detach().numpy(), wanted, atol=1e-6)


def test_predictions_are_constants_and_features_are_reversed() -> None:
    given = views()
    method = built(CDAN, **KNOBS)
    parts = [given["target"].features, given["target"].logits]
    reached, through = gradients(method(given, context(0.5)), *parts)
    assert through is None
    # The same without a reversal:
    joined = [given[r] for r in ("source", "target")]
    plain = [method.domain_logits(v.features, v.logits) for v in joined]
    loss = 0.5 * (
        torch.nn.functional.softplus(-plain[0]).mean()
        + torch.nn.functional.softplus(plain[1]).mean()
    )
    straight = torch.autograd.grad(loss, parts[0])[0]
    lam = 0.5 * (2 / (1 + np.exp(-3.0 * 0.5)) - 1)
    assert torch.allclose(reached, -lam * straight, atol=1e-7)


def test_random_map_keeps_inner_products_on_average() -> None:
    """E <m(f, g), m(f', g')> = <f, f'> <g, g'>, the reason for the map (section 3.3)."""
    wide = {**KNOBS, "largest": 17}  # below D K = 18: the random map
    given = views()
    f, g = given["source"].features.detach(), given["source"].logits.detach()
    products = []
    for seed in range(400):
        torch.manual_seed(seed)
        method = CDAN(in_features=D, num_classes=K, **wide)
        seen = method.seen(f, g)
        assert seen.shape == (N, 17)
        products.append(seen @ seen.T)
    wanted = (f @ f.T) * (g.softmax(1) @ g.softmax(1).T)
    found = torch.stack(products).mean(0)
    assert (found - wanted).abs().max() < 0.15 * wanted.abs().max()
    names = dict(method.named_buffers())
    assert {"of_features", "of_shares"} <= names.keys()  # saved with the model


def test_entropy_weights() -> None:
    given = views(scale=3.0)
    a = arrays(given)
    raw = 1 + np.exp(-entropy(a["pt"]))
    found = certainty(given["target"].logits)
    assert np.allclose(found.detach().numpy(), raw / raw.mean(), atol=1e-5)
    method = built(CDAN, **{**KNOBS, "entropy": True})
    logits = [
        method.domain_logits(given[r].features, given[r].logits).detach().double().numpy()
        for r in ("source", "target")
    ]
    weights = [1 + np.exp(-entropy(a[name])) for name in ("ps", "pt")]
    losses = [np.logaddexp(0, -logits[0]), np.logaddexp(0, logits[1])]
    wanted = 0.5 * sum(np.average(x, weights=w) for x, w in zip(losses, weights, strict=True))
    assert method(given, context())["cdan"].item() == pytest.approx(wanted, rel=1e-5)
    plain = built(CDAN, **KNOBS)(given, context())["cdan"].item()
    assert plain == pytest.approx(0.5 * sum(x.mean() for x in losses), rel=1e-5)
