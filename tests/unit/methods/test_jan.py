"""JAN against a reference with the product of the feature and probability kernels."""

from __future__ import annotations

import numpy as np
import pytest

from methods import PENALTY, N, arrays, built, context, gaussian, gradients, views
from tl_lightning.methods.jan import JAN

PARAMS = {"multipliers": [0.5, 2.0], "bandwidth": 1.3, "unbiased": False, **PENALTY}


def reference(a) -> float:
    kernel = gaussian(np.concatenate([a["fs"], a["ft"]]), PARAMS["multipliers"])
    kernel = kernel * gaussian(np.concatenate([a["ps"], a["pt"]]), [1.0], 1.3)
    signs = np.concatenate([np.full(N, 1 / N), np.full(len(kernel) - N, -1 / (len(kernel) - N))])
    return float(signs @ kernel @ signs)  # the biased estimate is a quadratic form


def test_value() -> None:
    given = views()
    result = built(JAN, **PARAMS)(given, context())["jan"]
    assert result.item() == pytest.approx(reference(arrays(given)), rel=1e-4)


def test_the_unbiased_estimate_excludes_pairs_of_a_sample_with_itself() -> None:
    given = views()
    a = arrays(given)
    biased, unbiased = (
        built(JAN, **{**PARAMS, "unbiased": flag})(given, context())["jan"].item()
        for flag in (False, True)
    )
    kernel = gaussian(np.concatenate([a["fs"], a["ft"]]), PARAMS["multipliers"])
    kernel = kernel * gaussian(np.concatenate([a["ps"], a["pt"]]), [1.0], 1.3)
    gap = 0.0
    for block in (kernel[:N, :N], kernel[N:, N:]):
        n = len(block)
        gap += (block.sum() - np.trace(block)) / (n * (n - 1)) - block.mean()
    assert unbiased - biased == pytest.approx(gap, rel=1e-3)


def test_gradients_reach_features_and_predictions_of_both_domains() -> None:
    given = views()
    parts = [getattr(given[r], n) for r in ("source", "target") for n in ("features", "logits")]
    for gradient in gradients(built(JAN, **PARAMS)(given, context()), *parts):
        assert gradient.abs().sum() > 1e-6


def test_different_predictions_alone_cause_a_discrepancy() -> None:
    given = views(6, 6)
    given["target"].features = given["source"].features
    given["target"].logits = given["source"].logits
    method = built(JAN, **PARAMS)
    assert method(given, context())["jan"].item() == pytest.approx(0.0, abs=1e-6)
    given["target"].logits = -given["source"].logits
    assert method(given, context())["jan"].item() > 1e-3
