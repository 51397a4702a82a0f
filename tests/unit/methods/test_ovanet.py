"""OVANet against the formulas of the paper, with two logits per class as in the authors' code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from methods import PENALTY, K, arrays, built, context, views
from tl_lightning.methods.ovanet import OVANet, hard_negative_loss, open_set_entropy


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def source_losses(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    p, out = sigmoid(z), []
    for row, label in zip(p, y, strict=True):
        others = [-np.log(1 - row[j]) for j in range(K) if j != label]
        out.append(-np.log(row[label]) + max(others))
    return np.array(out)


@pytest.mark.parametrize("entropy", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_value(entropy: float, weighted: bool) -> None:
    given, method = views(scale=2.0), built(OVANet, entropy=entropy, **PENALTY)
    w, b = (p.detach().double().numpy() for p in method.classifiers.parameters())
    numbers = arrays(given)
    losses = source_losses(numbers["fs"] @ w.T + b, numbers["y"])
    if weighted:
        weights = torch.linspace(0.5, 1.5, len(losses))
        given["source"] = dataclasses.replace(given["source"], weights=weights)
        losses = losses * weights.numpy()
    p = sigmoid(numbers["ft"] @ w.T + b)
    uncertain = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
    expected = 0.5 * losses.mean() + entropy * uncertain
    result = method(given, context())["ovanet"]
    assert result.item() == pytest.approx(expected, rel=1e-5)


def test_one_logit_is_the_difference_of_two() -> None:
    """Of the authors' softmax over two logits, the probability is that of their difference."""
    g = torch.Generator().manual_seed(0)
    two, labels = torch.randn(5, 2, K, generator=g), torch.tensor([0, 1, 2, 0, 1])
    p = two.softmax(1)
    own = torch.nn.functional.one_hot(labels, K).bool()
    positive = -p[:, 1][own].log()
    negative = (-p[:, 0].log()).masked_fill(own, 0).amax(1)
    one = two[:, 1] - two[:, 0]
    torch.testing.assert_close(hard_negative_loss(one, labels), positive + negative)
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(open_set_entropy(one), entropy)


def test_large_logits_are_finite() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = hard_negative_loss(z, torch.tensor([1])).sum() + open_set_entropy(z)
    assert loss.item() == pytest.approx(2e4 + np.log(2) / 3)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_the_classifier_of_the_predicted_class_decides() -> None:
    method = built(OVANet, entropy=0.1, **PENALTY)
    features, logits = torch.randn(4, 6), torch.eye(4)[:, :K]
    found = method.unknown_scores(features, logits)
    p = torch.sigmoid(method.classifiers(features))
    expected = 1 - p[torch.arange(4), logits.argmax(1)]
    torch.testing.assert_close(found, expected)


def test_fitted_classifiers_know_the_source_at_any_scale() -> None:
    """Samples of a class between the others are rejected, those of the source are not."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % K
    centres = 6 * torch.eye(K, 6)
    features = centres[labels] + torch.randn(300, 6, generator=g)
    known = {}
    for scale in (1.0, 100.0):
        torch.manual_seed(0)
        method = built(OVANet, entropy=0.1, **PENALTY)
        before = torch.random.get_rng_state()
        method.fit_start(scale * features, labels, seed=1)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert method.classifiers.weight.grad is None
        logits = torch.nn.functional.one_hot(labels, K).float()
        known[scale] = method.unknown_scores(scale * features, logits)
        unknown = method.unknown_scores(scale * centres.mean(0, keepdim=True), logits[:1])
        assert (known[scale] < 0.5).float().mean() > 0.95
        assert unknown.item() > known[scale].median() + 0.2
    torch.testing.assert_close(known[1.0], known[100.0], rtol=0.05, atol=0.01)
