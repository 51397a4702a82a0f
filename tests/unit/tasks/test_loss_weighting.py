"""Uncertainty weighting and PCGrad against the formulas of the papers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from tl_lightning.tasks.auxiliary.single_label import SingleLabel
from tl_lightning.tasks.loss_weighting import Uncertainty, projected
from tl_lightning.tasks.multitask import MultiTask
from tl_lightning.types import View


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_uncertainty_and_its_gradient(share) -> None:
    uncertainty = Uncertainty([1.0, share])
    with torch.no_grad():
        uncertainty.log_variances.copy_(torch.tensor([0.3, -0.7]))
    loss = torch.tensor(2.0, requires_grad=True)
    term = uncertainty(1, loss, torch.tensor(True))
    term.backward()
    sigma = math.exp(-0.7 / 2)
    assert term.item() == pytest.approx(share * 2.0 / sigma**2 + math.log(sigma))
    assert loss.grad.item() == pytest.approx(share / sigma**2)
    expected = -share * math.exp(0.7) * 2.0 + 0.5
    assert uncertainty.log_variances.grad.tolist() == pytest.approx([0.0, expected])
    assert uncertainty.weight(1).item() == pytest.approx(share * math.exp(0.7))


def test_uncertainty_converges_to_the_noise() -> None:
    """For squared errors with mean square v, the learned variance is v (eq. 5 of the paper)."""
    uncertainty = Uncertainty([0.5])
    optimizer = torch.optim.LBFGS(uncertainty.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = uncertainty(0, torch.tensor(3.0), True)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert uncertainty.log_variances.exp().item() == pytest.approx(3.0, rel=1e-4)


def test_uncertainty_without_labels_is_zero() -> None:
    uncertainty = Uncertainty([1.0])
    nn.init.constant_(uncertainty.log_variances, 0.4)
    term = uncertainty(0, torch.tensor(0.0), torch.tensor(False))
    term.backward()
    assert term.item() == 0.0
    assert uncertainty.log_variances.grad.item() == 0.0


def projected_gradient(i, gradients, order):
    """Return one task's projected gradient (algorithm 1 of PCGrad) for a given task order."""
    g = gradients[i].copy()
    for j in order:
        if g @ gradients[j] < 0:
            g -= g @ gradients[j] / (gradients[j] @ gradients[j]) * gradients[j]
    return g


def algorithm_1(gradients):
    """Return the result of algorithm 1 of PCGrad for two tasks."""
    return projected_gradient(0, gradients, [1]) + projected_gradient(1, gradients, [0])


def test_projected_is_algorithm_1() -> None:
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(2, 7))
        expected = algorithm_1(rows)
        parts = [
            [torch.tensor(r[:4]).view(2, 2).float(), torch.tensor(r[4:]).float()] for r in rows
        ]
        result = torch.cat([part.reshape(-1) for part in projected(parts)])
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_projected_uses_a_random_task_order() -> None:
    rows = np.array([[1.0, 0.2, -0.3], [-1.0, 0.6, 0.1], [-0.2, -1.0, 0.8]])
    parts = [[torch.tensor(row).float()] for row in rows]
    result = {
        tuple(np.round(projected(parts, torch.Generator().manual_seed(seed))[0].numpy(), 4))
        for seed in range(30)
    }
    assert len(result) > 1
    single = [
        [
            projected_gradient(i, rows, order)
            for order in itertools.permutations(set(range(3)) - {i})
        ]
        for i in range(3)
    ]
    possible = [sum(parts) for parts in itertools.product(*single)]
    for one in result:
        assert min(np.abs(one - other).max() for other in possible) < 1e-3
    again = projected(parts, torch.Generator().manual_seed(3))[0]
    assert torch.equal(again, projected(parts, torch.Generator().manual_seed(3))[0])


def test_projected_keeps_gradients_without_conflict() -> None:
    one, other = torch.tensor([1.0, 0.5]), torch.tensor([0.2, 1.0])
    assert torch.equal(projected([[one], [other]])[0], one + other)
    assert torch.equal(projected([[one], [torch.zeros(2)]])[0], one)


def two_tasks(task_weighting, weight=1.0):
    torch.manual_seed(0)
    settings = {"in_features": 4, "labels": "x", "groups": None, "weight": weight}
    task = SingleLabel(label_info={"names": ["a", "b"]}, **settings)
    return MultiTask({"x": task}, task_weighting)


def test_backward_projects_only_shared_parameters() -> None:
    several = two_tasks("pcgrad")
    shared, main = nn.Linear(3, 4), nn.Linear(4, 2)
    several.tasks["x"].head.load_state_dict(main.state_dict())  # opposite labels: a conflict
    unused = nn.Parameter(torch.zeros(2))
    features = shared(torch.randn(8, 3))
    labels, aux_labels = torch.arange(8) % 2, {"source": {"x": (torch.arange(8) + 1) % 2}}
    view = View(features, main(features), labels)
    loss = nn.functional.cross_entropy(view.logits, labels)
    terms = several.terms({"task": loss}, {"source": view}, aux_labels)
    assert list(terms) == ["task", "task/x"]
    own = [*main.parameters(), *several.parameters(), unused]
    separate = [
        torch.autograd.grad(t, [*shared.parameters(), *own[:-1]], retain_graph=True,
                            allow_unused=True)
        for t in terms.values()
    ]  # fmt: skip
    several.backward(terms, [shared], [*shared.parameters(), *own], seed=0)
    flat = [torch.cat([g.reshape(-1) for g in part[:2]]).double().numpy() for part in separate]
    assert flat[0] @ flat[1] < 0  # the gradients do conflict
    result = torch.cat([p.grad.reshape(-1) for p in shared.parameters()])
    np.testing.assert_allclose(result, algorithm_1(flat), rtol=1e-4, atol=1e-6)
    for parameter, *gradients in zip(own[:-1], *(part[2:] for part in separate), strict=True):
        torch.testing.assert_close(parameter.grad, sum(g for g in gradients if g is not None))
    assert unused.grad is None  # so that the optimizer skips it


@pytest.mark.parametrize("task_weighting", ["fixed", "uncertainty", "pcgrad"])
def test_a_weight_of_zero_adds_no_term(task_weighting) -> None:
    several = two_tasks(task_weighting, weight=0.0)
    features = torch.randn(4, 4)
    view = View(features, features, torch.zeros(4, dtype=torch.long))
    main = {"task": features.sum()}
    assert several.terms(main, {"source": view}, {"source": {"x": view.labels}}) is main
    assert not any(p.requires_grad for p in several.parameters())
    assert not several.projects


def test_few_shot_target_samples_do_not_add_the_log_term_again() -> None:
    several = two_tasks("uncertainty")
    with torch.no_grad():
        several.uncertainty.log_variances.copy_(torch.tensor([0.4, 0.8]))
    features = torch.randn(4, 4)
    view = View(features, features, torch.zeros(4, dtype=torch.long))
    views = dict.fromkeys(("source", "target_labelled"), view)
    aux_labels = {stream: {"x": view.labels} for stream in views}
    main = {"task": torch.tensor(1.0), "task_labelled": torch.tensor(1.0)}
    terms = several.terms(main, views, aux_labels)
    assert (terms["task"] - terms["task_labelled"]).item() == pytest.approx(0.2)
    assert (terms["task/x"] - terms["task_labelled/x"]).item() == pytest.approx(0.4)
    assert several.weights()["weight/main"].item() == pytest.approx(math.exp(-0.4))
