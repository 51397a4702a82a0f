"""Every kind of further task against formulas of its own, and without what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import (
    accuracy_score,
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


def made(kind, **extra):
    torch.manual_seed(0)
    facts = {
        SingleLabel: {"names": ["a", "b", "c"]},
        MultiLabel: {"names": ["a", "b", "c"]},
        Regression: {"mean": 3.0, "std": 2.5},
        Ordinal: {"names": ["low", "middle", "high", "top"]},
    }[kind]
    extra = {"levels": None} if kind is Ordinal else {}
    return kind(facts=facts, **SETTINGS, **extra)


def batch(kind):
    """Return features and labels of which the second and the last are missing."""
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


KEPT = [0, 2, 3, 4]
KINDS = (SingleLabel, MultiLabel, Regression, Ordinal)


def by_hand(kind, outputs, labels):
    """Return loss and metrics of rows whose labels are all there."""
    out, y = outputs.detach().double().numpy(), labels.numpy()
    if kind is SingleLabel:
        p = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        guess = out.argmax(1)
        metrics = {"acc": accuracy_score(y, guess), "f1": f1_score(y, guess, average="macro")}
        return log_loss(y, p, labels=[0, 1, 2]), metrics
    if kind is MultiLabel:
        losses = [log_loss(y[:, k], expit(out[:, k]), labels=[0, 1]) for k in range(3)]
        guess = out > 0
        metrics = {
            "acc": float((guess == y).mean()),
            "f1": f1_score(y, guess, average="macro", zero_division=0),
        }
        return float(np.mean(losses)), metrics
    if kind is Regression:
        guess = out[:, 0] * 2.5 + 3.0
        metrics = {"mae": mean_absolute_error(y, guess), "r2": r2_score(y, guess)}
        return mean_squared_error((y - 3.0) / 2.5, out[:, 0]), metrics
    above = y[:, None] > np.arange(3)
    p = expit(out)
    loss = -(above * np.log(p) + ~above * np.log(1 - p)).sum(1).mean()
    guess = (p > 0.5).sum(1)
    return loss, {"acc": accuracy_score(y, guess), "mae": mean_absolute_error(y, guess)}


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_metrics_are_the_formulas_on_what_is_there(kind) -> None:
    task, (features, labels) = made(kind), batch(kind)
    outputs = task(features)
    wanted, metrics = by_hand(kind, outputs[KEPT], labels[KEPT])
    torch.testing.assert_close(task.loss(outputs, labels).item(), float(wanted), rtol=1e-5, atol=0)
    found = task.metrics("x/")
    for part in (slice(0, 2), slice(2, 6)):  # in two batches
        task.score(found, outputs[part], labels[part])
    values = {name: value.item() for name, value in found.compute().items()}
    assert values == pytest.approx({f"x/{k}": v for k, v in metrics.items()}, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_changes_no_gradient(kind) -> None:
    gradients = []
    for rows in (slice(None), KEPT):
        task, (features, labels) = made(kind), batch(kind)
        features = features[rows].requires_grad_()
        task.loss(task(features), labels[rows]).backward()
        whole = features.grad[KEPT] if rows == slice(None) else features.grad
        gradients.append([whole, *(p.grad for p in task.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_labels_costs_exactly_nothing(kind) -> None:
    task, (features, labels) = made(kind), batch(kind)
    features.requires_grad_()
    loss = task.loss(task(features)[[1, 5]], labels[[1, 5]])
    loss.backward()
    assert loss.item() == 0.0
    assert not features.grad.any()
    assert all(not p.grad.any() for p in task.parameters())
    scores = task.metrics("x/")
    task.score(scores, task(features)[[1, 5]], labels[[1, 5]])  # no error


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_mean_the_loss_of_one_batch(kind, monkeypatch) -> None:
    """However the missing labels fall: here one of two are there on a rank, three of four on the
    other."""
    task, (features, labels) = made(kind), batch(kind)
    outputs = task(features)
    whole = task.loss(outputs, labels).item()
    total = task.known(labels).sum()
    monkeypatch.setattr("tl_lightning.tasks.auxiliary.base.rank_mean", lambda own: total / 2)
    ranks = [task.loss(outputs[part], labels[part]).item() for part in (slice(0, 2), slice(2, 6))]
    assert sum(ranks) / 2 == pytest.approx(whole, rel=1e-5)


def test_entries_of_a_sample_may_be_missing_one_by_one() -> None:
    task, (features, _) = made(MultiLabel), batch(MultiLabel)
    outputs = task(features[:2])
    labels = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, 1.0]])
    p = expit(outputs.detach().double().numpy())
    wanted = -np.mean([np.log(p[0, 0]), np.log(1 - p[0, 2]), np.log(p[1, 2])])
    torch.testing.assert_close(task.loss(outputs, labels).item(), wanted, rtol=1e-5, atol=0)


def test_logits_between_0_and_1_are_logits_all_the_same() -> None:
    task = made(MultiLabel)
    scores = task.metrics("x/")
    task.score(scores, torch.tensor([[0.3, 0.4, 0.1], [0.2, 0.1, 0.4]]), torch.ones(2, 3))
    assert [value.item() for value in scores.compute().values()] == [1.0, 1.0]


def test_questions_of_coral_share_their_weights_and_stay_in_order() -> None:
    """Theorem 1 of the paper: at the optimum the thresholds fall, so no answer contradicts."""
    task = made(Ordinal)
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


def test_metrics_of_a_single_number() -> None:
    task = made(Regression)
    scores = task.metrics("x/")
    task.score(scores, torch.zeros(1, 1), torch.tensor([4.0]))
    found = scores.compute()
    assert found["x/mae"].item() == 1.0
    assert math.isnan(found["x/r2"].item())


@pytest.mark.parametrize(
    ("kind", "texts", "facts"),
    [
        (SingleLabel, ["10", "9", "9"], {"names": ["9", "10"]}),
        (MultiLabel, ["b; a", ";", "c"], {"names": ["a", "b", "c"]}),
        (Regression, ["1", "3"], {"mean": 2.0, "std": 1.0}),
        (Ordinal, ["2", "10", "1"], {"names": ["1", "2", "10"]}),
    ],
)
def test_what_the_labels_say(kind, texts, facts) -> None:
    assert kind.facts_of(texts, {"levels": None}, "tasks.x") == facts


def test_how_labels_are_written() -> None:
    names = {"names": ["a", "b"]}
    assert SingleLabel.encode("b", names) == 1
    assert MultiLabel.encode(" b ;", names) == [0.0, 1.0]
    assert MultiLabel.encode(";", names) == [0.0, 0.0]
    assert Regression.encode(" -1.5e2 ", {}) == -150.0
    assert Ordinal.facts_of(["b"], {"levels": ["b", "a"]}, "tasks.x") == {"names": ["b", "a"]}


@pytest.mark.parametrize(
    ("kind", "texts", "words"),
    [
        (SingleLabel, ["a", "a"], r"tasks\.x has only the label 'a'"),
        (MultiLabel, ["a;", ";"], r"tasks\.x has only the label 'a'"),
        (Regression, ["1", "many"], r"tasks\.x is a regression, but its labels hold 'many'; mend"),
        (Regression, ["1", "inf"], r"its labels hold 'inf'"),
        (Regression, ["2", "2.0"], r"tasks\.x is 2 in all training samples of the source"),
        (Ordinal, ["1", "low"], r"tasks\.x\.levels=null takes whole numbers .* 'low'; type tasks"),
    ],
)
def test_labels_that_are_none(kind, texts, words) -> None:
    with pytest.raises(DataError, match=words):
        kind.facts_of(texts, {"levels": None}, "tasks.x")


def test_labels_that_follow_from_the_main_task() -> None:
    facts = {"names": ["a", "b"], "by_class": [1, -1, 0]}
    settings = {**SETTINGS, "labels": None, "groups": "table.csv"}
    task = SingleLabel(facts=facts, **settings)
    assert task.labels_of(torch.tensor([2, 0, 1]), {}, "x").tolist() == [0, 1, -1]
    assert "by_class" not in task.state_dict()
