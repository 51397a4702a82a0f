"""Outputs on a target with other classes: rejection, prior correction and metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tl_lightning.layers import Part
from tl_lightning.tasks.class_set_metrics import ClassSetScores
from tl_lightning.tasks.target_outputs import PriorCorrection, Rejection, unfamiliarity


def test_entropy_and_energy() -> None:
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    p = np.exp(z.numpy() / 2) / np.exp(z.numpy() / 2).sum(1, keepdims=True)
    entropy = -(p * np.log(p)).sum(1) / np.log(4)
    energy = -2 * np.log(np.exp(z.numpy() / 2).sum(1))
    scale = torch.tensor(2.0)
    np.testing.assert_allclose(unfamiliarity(z, "entropy", scale), entropy, rtol=1e-5)
    np.testing.assert_allclose(unfamiliarity(z, "energy", scale), energy, rtol=1e-5)


def test_nothing_is_rejected_before_the_threshold_is_fitted() -> None:
    layer = Rejection("entropy")
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    assert not layer.rejects(layer(logits)).any()
    layer.threshold.fill_(0.5)
    assert layer.rejects(layer(logits)).tolist() == [True, False]


def test_the_correction_applies_to_the_target_in_evaluation() -> None:
    layer = PriorCorrection(2)
    layer.shift.copy_(torch.tensor([1.0, -1.0]))
    logits = torch.zeros(3, 2)
    assert torch.equal(layer.train()(logits), logits)
    layer.eval()
    assert torch.equal(layer(logits), torch.tensor([[1.0, -1.0]] * 3))
    layer.parts = [Part("source", 3)]
    assert torch.equal(layer(logits), logits)


def test_scores_over_batches() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    labels[labels == 1] = 0  # a class that is absent
    metric = ClassSetScores(3)
    for part in np.split(np.arange(50), 5):
        metric.update(torch.from_numpy(predicted[part]), torch.from_numpy(labels[part]))
    known = labels < 3
    by_class = [(predicted[labels == k] == k).mean() for k in (0, 2)]
    unknown = (predicted[~known] == 3).mean()
    expected = {
        "known_acc": (predicted[known] == labels[known]).mean(),
        "known_class_acc": np.mean(by_class),
        "unknown_recall": unknown,
        "h_score": 2 / (1 / np.mean(by_class) + 1 / unknown),
    }
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(expected)


def test_only_unknown_or_only_known_samples() -> None:
    metric = ClassSetScores(2)
    metric.update(torch.tensor([2, 0]), torch.tensor([2, 2]))
    assert {k: v.item() for k, v in metric.compute().items()} == {"unknown_recall": 0.5}
    metric.reset()
    metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]))
    assert list(metric.compute()) == ["known_acc", "known_class_acc"]
