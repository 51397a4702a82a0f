"""DSAN against a reference with explicit loops over classes and pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import PENALTY, K, arrays, built, context, gaussian, gradients, views
from tl_lightning.methods.dsan import DSAN

PARAMS = {"multipliers": [1.0, 2.0], **PENALTY}


def reference(a) -> float:
    n, m = len(a["fs"]), len(a["ft"])
    kernel = gaussian(np.concatenate([a["fs"], a["ft"]]), PARAMS["multipliers"])
    values = []
    for c in range(K):
        if not (a["y"] == c).any() or not (a["zt"].argmax(1) == c).any():
            continue
        ws = (a["y"] == c) / (a["y"] == c).sum()
        wt = a["pt"][:, c] / a["pt"][:, c].sum()
        value = 0.0
        for i in range(n):
            for j in range(n):
                value += ws[i] * ws[j] * kernel[i, j]
            for j in range(m):
                value -= 2 * ws[i] * wt[j] * kernel[i, n + j]
        for i in range(m):
            for j in range(m):
                value += wt[i] * wt[j] * kernel[n + i, n + j]
        values.append(value)
    return float(np.mean(values))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_value(seed: int) -> None:
    given = views(8, 9, scale=2.0, seed=seed)
    result = built(DSAN, **PARAMS)(given, context())["dsan"]
    assert result.item() == pytest.approx(reference(arrays(given)), rel=1e-4)


def test_a_class_of_only_one_domain_is_ignored() -> None:
    given = views(8, 9)
    given["target"].logits = torch.tensor([[9.0, 0.0, 0.0]]).repeat(9, 1)
    given["source"].labels = torch.full((8,), 1)
    result = built(DSAN, **PARAMS)(given, context())["dsan"]
    assert result.item() == 0.0


def test_the_mean_is_over_shared_classes() -> None:
    given = views(8, 9, scale=2.0)
    given["source"].labels = torch.tensor([0, 1] * 4)
    shared = set(given["target"].logits.argmax(1).tolist()) & {0, 1}
    assert shared == {0, 1}
    result = built(DSAN, **PARAMS)(given, context())["dsan"]
    assert result.item() == pytest.approx(reference(arrays(given)), rel=1e-4)


def test_predictions_have_no_gradient() -> None:
    given = views(8, 9)
    terms = built(DSAN, **PARAMS)(given, context())
    of_features, of_logits = gradients(terms, given["target"].features, given["target"].logits)
    assert of_features.abs().sum() > 0
    assert of_logits is None
