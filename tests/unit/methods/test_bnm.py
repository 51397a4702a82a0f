"""BNM against the nuclear norm in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import PENALTY, M, arrays, built, context, gradients, views
from tl_lightning.methods.bnm import BNM


def test_value() -> None:
    given = views()
    result = built(BNM, **PENALTY)(given, context())["bnm"]
    expected = -np.linalg.norm(arrays(given)["pt"], ord="nuc") / M
    assert result.item() == pytest.approx(expected, rel=1e-5)


def test_confident_and_diverse_predictions_are_best() -> None:
    method, given = built(BNM, **PENALTY), views(6, 6)
    values = {}
    cases = {"diverse": [0, 1, 2] * 2, "one": [0] * 6}
    for name, classes in cases.items():
        given["target"].logits = 50 * torch.nn.functional.one_hot(torch.tensor(classes), 3).float()
        values[name] = method(given, context())["bnm"].item()
    given["target"].logits = torch.zeros(6, 3)
    values["uniform"] = method(given, context())["bnm"].item()
    assert values["diverse"] < values["one"] < values["uniform"]
    assert values["diverse"] == pytest.approx(-3 * np.sqrt(2) / 6, rel=1e-5)


def test_gradient_step_increases_the_norm() -> None:
    given, method = views(), built(BNM, **PENALTY)
    before = method(given, context())
    z = given["target"].logits
    given["target"].logits = z - gradients(before, z)[0]
    assert method(given, context())["bnm"] < before["bnm"]
