"""BA3US: the balanced adversary against its definition, and its settings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from helpers import config
from methods import K, arrays, built, context, entropy, gradients, views
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.methods.ba3us import BA3US
from tl_lightning.training import fit as training

PARAMS = {"max_lambda": 1.0, "gain": 10.0, "ramp_steps": None, "share": 0.4, "width": 8,
          "depth": 1, "dropout": 0.0, "norm": "none", "activation": "relu"}  # fmt: skip


def weighted(classes):
    given = views(scale=2.0)
    weights = torch.tensor(classes)[given["source"].labels]
    given["source"] = dataclasses.replace(given["source"], weights=weights)
    return given, weights.numpy()


def test_value_over_many_draws_of_source_samples() -> None:
    """The authors draw source samples that count as target samples; the mean is ours."""
    given, classes = weighted([2.0, 1.0, 0.5])
    method, progress = built(BA3US, **PARAMS), 0.25
    a = arrays(given)
    logits = [
        method.domain_logits(given[one].features, given[one].logits).detach().double().numpy()
        for one in ("source", "target")
    ]
    certain = [1 + np.exp(-entropy(a[name])) for name in ("ps", "pt")]
    share, n = 0.4 * (1 - progress), len(classes)
    own, other = certain[0] * classes, certain[1]
    # Each source sample as a target one with probability `share`, relative to the source's total.
    drawn = sum(
        share * own[i] * np.logaddexp(0, logits[0][i]) / own.sum() for i in range(n)
    )  # fmt: skip
    expected = (
        np.average(np.logaddexp(0, -logits[0]), weights=own)
        + drawn
        + np.average(np.logaddexp(0, logits[1]), weights=other)
    ) / (2 + share)
    assert method(given, context(progress))["ba3us"].item() == pytest.approx(expected, rel=1e-5)


def test_the_share_of_the_source_falls_to_zero() -> None:
    given, _ = weighted([1.0] * K)
    method, none = built(BA3US, **PARAMS), built(BA3US, **{**PARAMS, "share": 0.0})
    end, without = (one(given, context(1.0))["ba3us"] for one in (method, none))
    torch.testing.assert_close(end, without)
    assert not torch.isclose(method(given, context(0.5))["ba3us"], without)


def test_features_get_the_reversed_gradient() -> None:
    given, _ = weighted([2.0, 1.0, 0.5])
    method = built(BA3US, **PARAMS)
    parts = [given["source"].features, given["target"].features, given["target"].logits]
    source, target, logits = gradients(method(given, context(0.5)), *parts)
    assert logits is None  # neither through the certainty
    plain = built(BA3US, **{**PARAMS, "max_lambda": -1.0})
    found = gradients(plain(given, context(0.5)), *parts[:2])
    torch.testing.assert_close(source, -found[0])
    torch.testing.assert_close(target, -found[1])
    assert target.any()


def test_an_absent_class_does_not_count() -> None:
    given, _ = weighted([1.0, 1.0, 0.0])
    method = built(BA3US, **PARAMS)
    (found,) = gradients(method(given, context(0.5)), given["source"].features)
    absent = given["source"].labels == 2
    assert not found[absent].any()
    assert found[~absent].any()


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.ba3us\.share=2\.0 is not in \[0, 1\]; set"):
        validation.check(config("model=ba3us", "method.ba3us.share=2.0"))


@pytest.mark.slow
def test_the_preset_trains(tmp_path) -> None:
    report = training.fit(config("model=ba3us", "trainer.max_epochs=1"), tmp_path)
    assert report["config"]["model"]["name"] == "ba3us"
