"""IRM against the gradient by a dummy scale."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from methods import PENALTY, built, context, views
from tl_lightning.methods.irm import IRM, scale_gradients


def test_derivative_by_the_scale_equals_autograd() -> None:
    view = views()["source"]
    scale = torch.ones(5, 1, requires_grad=True)
    loss = functional.cross_entropy(view.logits * scale, view.labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, scale)
    torch.testing.assert_close(scale_gradients(view.logits, view.labels), expected[:, 0])


def test_value() -> None:
    found = views(8, 4)
    domain = found["source"].domain = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    each = scale_gradients(found["source"].logits, found["source"].labels)
    expected = []
    for number in (0, 1):  # domain 2 has a single sample
        pairs = itertools.permutations(each[domain == number], 2)
        expected.append(torch.stack([one * other for one, other in pairs]).mean())
    value = built(IRM, **PENALTY, anneal=0.0)(found, context())["irm"]
    assert value.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    value.backward()
    assert found["source"].logits.grad.abs().sum() > 0


def test_single_samples_give_zero() -> None:
    found = views(3, 4)
    found["source"].domain = torch.arange(3)
    assert built(IRM, **PENALTY, anneal=0.0)(found, context())["irm"].item() == 0.0
