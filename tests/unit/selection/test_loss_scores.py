"""Scores of labels that are not classes, and their callback."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tl_lightning.errors import ConfigError
from tl_lightning.losses.labels import AbsoluteError, BinaryCrossEntropy, Huber, SquaredError
from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.importance import ratios
from tl_lightning.selection.loss_callback import LossValidators, constant_loss
from tl_lightning.selection.loss_scores import LOSS_SCORES, LossOutputs, loss_scores


class Numbers(nn.Module):
    """A task with squared errors of standardised numbers."""

    kind = "regression"

    def __init__(self, loss=None) -> None:
        super().__init__()
        self.loss_fn = loss or SquaredError()

    def targets(self, labels):
        return (labels - 5.0) / 2.0

    def sample_losses(self, outputs, labels):
        return self.loss_fn(outputs, self.targets(labels)).mean(1)


class Labels(nn.Module):
    """A task with the binary cross-entropy of several labels."""

    kind = "multi_label"
    loss_fn = BinaryCrossEntropy()

    def targets(self, labels):
        return labels

    def sample_losses(self, outputs, labels):
        return self.loss_fn(outputs, labels).mean(1)


def features(n: int = 200, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 3))


def test_iwcv_weights_the_losses_where_the_target_is() -> None:
    source, target = features(), features(shift=1.0, seed=1)
    right, left = (source[:, 0] > 0) * 1.0, (source[:, 0] < 0) * 1.0
    scores = [loss_scores(LossOutputs(losses, source, target)) for losses in (right, left)]
    assert scores[0]["iwcv"] < scores[1]["iwcv"]  # the losses are where the target is
    expected = -np.mean(ratios(source, target) * right)
    assert scores[0]["iwcv"] == pytest.approx(expected)
    assert scores[0]["dev"] < scores[1]["dev"]


def test_distance_is_the_loss_and_half_the_a_distance() -> None:
    losses, source = np.full(200, 0.25), features()
    far = loss_scores(LossOutputs(losses, source, source + 10))
    same = loss_scores(LossOutputs(losses, source, features(seed=2)))
    assert far["distance"] == pytest.approx(-0.25 - 1.0)
    assert same["distance"] == pytest.approx(-0.25, abs=0.2)
    few = loss_scores(LossOutputs(losses[:3], source[:3], source[:3] + 10))
    assert few["distance"] == -0.25


def test_outputs_that_are_not_finite_get_the_worst_scores() -> None:
    found = loss_scores(LossOutputs(np.array([np.nan]), features(1), features(1)))
    assert found == dict.fromkeys(LOSS_SCORES, WORST)


def test_loss_of_a_constant() -> None:
    labels = torch.tensor([[3.0], [7.0], [9.0]])
    assert constant_loss(Numbers(), labels).item() == pytest.approx(float(labels.var(0, False)) / 4)
    several = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert constant_loss(Labels(), several).item() == pytest.approx(entropy / 2, rel=1e-2)


def no_worse_anywhere(loss: nn.Module, labels: torch.Tensor) -> None:
    """Compare with the losses of constants on a grid."""
    task, grid = Numbers(loss), torch.linspace(-3, 3, 601)
    targets = task.targets(labels)
    losses = [task.loss_fn(value.expand_as(targets), targets).mean() for value in grid]
    assert constant_loss(task, labels).item() == pytest.approx(min(losses).item(), abs=1e-3)


@pytest.mark.parametrize("loss", [SquaredError(), AbsoluteError(), Huber(delta=0.3)])
def test_constant_is_the_best_one_of_the_loss(loss: nn.Module) -> None:
    no_worse_anywhere(loss, torch.tensor([[3.0], [3.5], [4.0], [5.0], [11.0]]))


def logged(task, error: float, best: float = 0.0) -> dict[str, float]:
    """Return what is logged for a model whose standardised predictions are off by ``error``."""
    callback = LossValidators(samples=100, min_source_ratio=0.9)
    callback.best_source_acc = best
    labels = 5 + 2 * torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    part = {
        "features": torch.from_numpy(features(100)),
        "logits": task.targets(labels) + error,
        "labels": labels,
    }
    rows = {}
    for domain in ("source", "target"):
        columns = callback.columns(SimpleNamespace(task=task), domain, part)
        assert len(columns) == (3 if domain == "source" else 1)  # no labels of the target
        arrays = [column.numpy() for column in columns]
        rows[domain] = {k: tuple(array[k] for array in arrays) for k in range(100)}
    return callback.values_of(SimpleNamespace(task=task, device="cpu"), rows)


def test_callback_logs_scores_of_fractions_of_the_loss_of_a_constant() -> None:
    found = logged(Numbers(), 0.5)
    labels = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    explained = 1 - 0.25 / float(labels.var(0, False))
    assert found["validator/source_val"] == pytest.approx(explained, rel=1e-4)
    assert found["validator/floored/iwcv"] == found["validator/iwcv"]
    assert found["validator/floor"] == pytest.approx(0.9 * explained, rel=1e-4)


def test_models_that_explain_the_source_less_are_collapsed() -> None:
    found = logged(Numbers(), 0.5, best=0.95)
    for name in LOSS_SCORES:
        assert found[f"validator/floored/{name}"] == pytest.approx(
            WORST + found["validator/source_val"]
        )
        assert found[f"validator/{name}"] > WORST + 2


def test_refusals() -> None:
    message = r"callbacks.validators.min_source_ratio=2 is not in"
    with pytest.raises(ConfigError, match=message):
        LossValidators(samples=10, min_source_ratio=2)
    with pytest.raises(ConfigError, match=r"callbacks.validators.samples=1 must be at least 2"):
        LossValidators(samples=1, min_source_ratio=0.9)
