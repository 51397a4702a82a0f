"""GroupDRO against the algorithm in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import arrays, built, context, softmax, views
from tl_lightning.errors import ConfigError
from tl_lightning.methods.group_dro import GroupDRO

PARAMS = {"weight": 1.0, "eta": 0.5, "gather": False, "num_sources": 3}
DOMAIN = torch.tensor([0, 2, 0, 2, 2])


def given():
    found = views()
    found["source"].domain = DOMAIN
    return found


def losses(a) -> dict[int, float]:
    each = -np.log(softmax(a["zs"])[np.arange(5), a["y"]])
    return {d: each[DOMAIN.numpy() == d].mean() for d in (0, 2)}


def test_two_steps() -> None:
    found, method = given(), built(GroupDRO, **PARAMS)
    expected = losses(arrays(found))
    q = np.full(3, 1 / 3)
    for _ in range(2):
        value = method(found, context())["groupdro"]
        for d, loss in expected.items():
            q[d] *= np.exp(0.5 * loss)
        q /= q.sum()
        share = {d: q[d] / (q[0] + q[2]) for d in expected}
        assert value.item() == pytest.approx(sum(share[d] * expected[d] for d in expected))
    assert method.q.numpy() == pytest.approx(q, rel=1e-5)


def test_the_worst_domain_gains_weight_and_the_share_scales_the_loss() -> None:
    found, method = given(), built(GroupDRO, **PARAMS)
    worst = max(losses(arrays(found)).items(), key=lambda item: item[1])[0]
    method(found, context())
    assert method.q.argmax() == worst
    half = built(GroupDRO, **{**PARAMS, "weight": 0.5})
    assert half.task_weight(0.3) == 0.5
    whole = built(GroupDRO, **PARAMS)(found, context())["groupdro"]
    assert half(found, context())["groupdro"].item() == pytest.approx(0.5 * whole.item())


def test_the_number_of_domains_must_be_known() -> None:
    with pytest.raises(ConfigError, match=r"method\.group_dro\.num_sources=null is taken from the"):
        built(GroupDRO, **{**PARAMS, "num_sources": None})


def test_samples_without_domains_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"needs View\(domain="):
        built(GroupDRO, **PARAMS)(views(), context())
