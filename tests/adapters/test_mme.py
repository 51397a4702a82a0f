"""MME: who raises the entropy and who lowers it."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import entropy
from torch import nn

from methods import PENALTY, D, K, built, context, gradients, views
from tl_lightning.adapters.mme import MME


def test_classifier_up_features_down() -> None:
    given, classifier = views(), nn.Linear(D, K)
    method = built(MME, **{**PENALTY, "weight": 0.5})
    terms = method(given, context(classify=classifier))
    f = given["target"].features
    shares = classifier(f).softmax(1)
    wanted = entropy(shares.detach().double().numpy(), axis=1).mean()
    assert terms["mme"].item() == pytest.approx(-0.5 * wanted, rel=1e-5)
    of_features, of_weight = gradients(terms, f, classifier.weight)
    mean = torch.special.entr(shares).sum(1).mean()
    straight = torch.autograd.grad(mean, [f, classifier.weight])
    assert torch.allclose(of_features, 0.5 * straight[0], atol=1e-6)  # descent lowers it
    assert torch.allclose(of_weight, -0.5 * straight[1], atol=1e-6)  # descent raises it
