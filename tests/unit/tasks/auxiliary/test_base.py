"""Auxiliary tasks: losses and metrics against reference formulas, and missing labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)

from tl_lightning.errors import DataError
from tl_lightning.tasks.auxiliary.multi_label import MultiLabel
from tl_lightning.tasks.auxiliary.ordinal import Ordinal
from tl_lightning.tasks.auxiliary.regression import Regression
from tl_lightning.tasks.auxiliary.single_label import SingleLabel

SETTINGS = {"in_features": 5, "weight": 1.0, "labels": "column", "groups": None}
NAN = math.nan


def make(kind):
    torch.manual_seed(0)
    label_info = {
        SingleLabel: {"names": ["a", "b", "c"]},
        MultiLabel: {"names": ["a", "b", "c"]},
        Regression: {"mean": 3.0, "std": 2.5},
        Ordinal: {"names": ["low", "middle", "high", "top"]},
    }[kind]
    extra = {"levels": None} if kind is Ordinal else {}
    return kind(label_info=label_info, **SETTINGS, **extra)


def batch(kind):
    """Return features and labels; the second and the last label are missing."""
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    labels = {
        SingleLabel: torch.tensor([0, -1, 2, 1, 1, -1]),
        MultiLabel: torch.tensor(
            [[1, 0, 1], [NAN] * 3, [0, 0, 0], [1, 1, 1], [0, 1, 0], [NAN] * 3]
        ),
        Regression: torch.tensor([1.5, NAN, -2.0, 7.0, 3.25, NAN]),
        Ordinal: torch.tensor([0, -1, 3, 1, 2, -1]),
    }[kind]
    return features, labels


KNOWN = [0, 2, 3, 4]
KINDS = (SingleLabel, MultiLabel, Regression, Ordinal)


def reference(kind, outputs, labels):
    """Return loss and metrics for samples without missing labels."""
    out, y = outputs.detach().double().numpy(), labels.numpy()
    if kind is SingleLabel:
        p = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        pred = out.argmax(1)
        metrics = {"acc": accuracy_score(y, pred), "f1": f1_score(y, pred, average="macro")}
        return log_loss(y, p, labels=[0, 1, 2]), metrics
    if kind is MultiLabel:
        losses = [log_loss(y[:, k], expit(out[:, k]), labels=[0, 1]) for k in range(3)]
        pred = out > 0
        metrics = {
            "acc": float((pred == y).mean()),
            "f1": f1_score(y, pred, average="macro", zero_division=0),
            "map": average_precision_score(y, out, average="macro"),
        }
        return float(np.mean(losses)), metrics
    if kind is Regression:
        pred = out[:, 0] * 2.5 + 3.0
        metrics = {"mae": mean_absolute_error(y, pred), "r2": r2_score(y, pred)}
        return mean_squared_error((y - 3.0) / 2.5, out[:, 0]), metrics
    above = y[:, None] > np.arange(3)
    p = expit(out)
    loss = -(above * np.log(p) + ~above * np.log(1 - p)).sum(1).mean()
    pred = (p > 0.5).sum(1)
    return loss, {"acc": accuracy_score(y, pred), "mae": mean_absolute_error(y, pred)}


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_metrics_over_known_labels(kind) -> None:
    task, (features, labels) = make(kind), batch(kind)
    outputs = task(features)
    expected, metrics = reference(kind, outputs[KNOWN], labels[KNOWN])
    torch.testing.assert_close(
        task.loss(outputs, labels).item(), float(expected), rtol=1e-5, atol=0
    )
    result = task.metrics("x/")
    for part in (slice(0, 2), slice(2, 6)):  # in two batches
        task.score(result, outputs[part], labels[part])
    values = {name: value.item() for name, value in result.compute().items()}
    assert values == pytest.approx({f"x/{k}": v for k, v in metrics.items()}, rel=1e-4)


@pytest.mark.filterwarnings("error")
def test_average_precision_leaves_out_labels_that_do_not_occur() -> None:
    task, outputs = make(MultiLabel), torch.tensor([[2.0, -1.0, 3.0], [1.0, -2.0, 4.0]])
    for labels, expected in (([[0, 0, 1], [1, 0, 1]], 0.75), ([[0, 0, 0], [0, 0, 0]], NAN)):
        result = task.metrics("x/")
        task.score(result, outputs, torch.tensor(labels).float())
        assert result.compute()["x/map"].item() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_labels_have_no_gradient(kind) -> None:
    gradients = []
    for rows in (slice(None), KNOWN):
        task, (features, labels) = make(kind), batch(kind)
        features = features[rows].requires_grad_()
        task.loss(task(features), labels[rows]).backward()
        whole = features.grad[KNOWN] if rows == slice(None) else features.grad
        gradients.append([whole, *(p.grad for p in task.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_exactly_zero_without_labels(kind) -> None:
    task, (features, labels) = make(kind), batch(kind)
    features.requires_grad_()
    loss = task.loss(task(features)[[1, 5]], labels[[1, 5]])
    loss.backward()
    assert loss.item() == 0.0
    assert not features.grad.any()
    assert all(not p.grad.any() for p in task.parameters())
    scores = task.metrics("x/")
    task.score(scores, task(features)[[1, 5]], labels[[1, 5]])  # no error


@pytest.mark.parametrize("kind", KINDS)
def test_mean_loss_of_two_ranks_equals_that_of_the_whole_batch(kind, monkeypatch) -> None:
    """Even with a different number of known labels per rank: 1 of 2 and 3 of 4."""
    task, (features, labels) = make(kind), batch(kind)
    outputs = task(features)
    whole = task.loss(outputs, labels).item()
    total = task.known(labels).sum()
    monkeypatch.setattr("tl_lightning.tasks.auxiliary.base.rank_mean", lambda own: total / 2)
    ranks = [task.loss(outputs[part], labels[part]).item() for part in (slice(0, 2), slice(2, 6))]
    assert sum(ranks) / 2 == pytest.approx(whole, rel=1e-5)


def test_single_entries_of_a_multi_label_sample_may_be_missing() -> None:
    task, (features, _) = make(MultiLabel), batch(MultiLabel)
    outputs = task(features[:2])
    labels = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, 1.0]])
    p = expit(outputs.detach().double().numpy())
    expected = -np.mean([np.log(p[0, 0]), np.log(1 - p[0, 2]), np.log(p[1, 2])])
    torch.testing.assert_close(task.loss(outputs, labels).item(), expected, rtol=1e-5, atol=0)


def test_multi_label_logits_in_0_1_are_not_taken_for_probabilities() -> None:
    task = make(MultiLabel)
    scores = task.metrics("x/")
    task.score(scores, torch.tensor([[0.3, 0.4, 0.1], [0.2, 0.1, 0.4]]), torch.ones(2, 3))
    assert [value.item() for value in scores.compute().values()] == [1.0, 1.0, 1.0]


def test_coral_is_rank_consistent_with_shared_weights() -> None:
    """Theorem 1 of the paper: at the optimum, the thresholds are in descending order."""
    task = make(Ordinal)
    features = torch.randn(200, 5, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(200, generator=torch.Generator().manual_seed(3))
    labels = torch.bucketize(features[:, 0] + noise, torch.tensor([-1.0, 0.0, 1.0]))
    optimizer = torch.optim.LBFGS(task.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = task.loss(task(features), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    outputs = task(features)
    assert (outputs.diff(dim=1) < 0).all()
    torch.testing.assert_close(outputs - outputs[:1], (outputs - outputs[:1])[:, :1].expand(-1, 3))


def test_r2_of_a_single_sample_is_nan() -> None:
    task = make(Regression)
    scores = task.metrics("x/")
    task.score(scores, torch.zeros(1, 1), torch.tensor([4.0]))
    result = scores.compute()
    assert result["x/mae"].item() == 1.0
    assert math.isnan(result["x/r2"].item())


@pytest.mark.parametrize(
    ("kind", "texts", "label_info"),
    [
        (SingleLabel, ["10", "9", "9"], {"names": ["9", "10"]}),
        (MultiLabel, ["b; a", ";", "c"], {"names": ["a", "b", "c"]}),
        (Regression, ["1", "3"], {"mean": 2.0, "std": 1.0}),
        (Ordinal, ["2", "10", "1"], {"names": ["1", "2", "10"]}),
    ],
)
def test_label_info_of(kind, texts, label_info) -> None:
    assert kind.label_info_of(texts, {"levels": None}, "aux_tasks.x") == label_info


def test_encode() -> None:
    names = {"names": ["a", "b"]}
    assert SingleLabel.encode("b", names) == 1
    assert MultiLabel.encode(" b ;", names) == [0.0, 1.0]
    assert MultiLabel.encode(";", names) == [0.0, 0.0]
    assert Regression.encode(" -1.5e2 ", {}) == -150.0
    assert Ordinal.label_info_of(["b"], {"levels": ["b", "a"]}, "aux_tasks.x") == {
        "names": ["b", "a"]
    }


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        (SingleLabel, ["a", "a"], r"aux_tasks\.x has only the label 'a'"),
        (MultiLabel, ["a;", ";"], r"aux_tasks\.x has only the label 'a'"),
        (
            Regression,
            ["1", "many"],
            r"aux_tasks\.x is a regression task, but .* 'many' is not a finite number; fix the",
        ),
        (Regression, ["1", "inf"], r"the label 'inf' is not a finite number"),
        (Regression, ["2", "2.0"], r"aux_tasks\.x is 2 for all training samples of the source"),
        (
            Ordinal,
            ["1", "low"],
            r"aux_tasks\.x\.levels=null requires integer .* 'low' is not .*; set aux_tasks\.x\.l",
        ),
    ],
)
def test_invalid_labels(kind, texts, message) -> None:
    with pytest.raises(DataError, match=message):
        kind.label_info_of(texts, {"levels": None}, "aux_tasks.x")


def test_labels_derived_from_the_main_task() -> None:
    label_info = {"names": ["a", "b"], "by_class": [1, -1, 0]}
    settings = {**SETTINGS, "labels": None, "groups": "table.csv"}
    task = SingleLabel(label_info=label_info, **settings)
    assert task.labels_of(torch.tensor([2, 0, 1]), {}, "x").tolist() == [0, 1, -1]
    assert "by_class" not in task.state_dict()
