"""DeepJDOT: transport plan and loss against a linear programming solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from methods import PENALTY, arrays, built, context, gradients, views
from tl_lightning.methods.deepjdot import DeepJDOT, transport

PARAMS = {"alpha": 0.3, "beta": 0.7, **PENALTY}


def programme(cost: np.ndarray) -> float:
    """Return the optimal transport cost between uniform masses from a linear programming solver."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones((1, m)))
    columns = np.kron(np.ones((1, n)), np.eye(m))
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return float(linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=masses).fun)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 7), (4, 6), (2, 8)])
def test_plan_is_optimal_with_uniform_marginals(n: int, m: int) -> None:
    cost = torch.rand(n, m, dtype=torch.float64)
    plan = transport(cost)
    assert torch.allclose(plan.sum(0), torch.full((m,), 1 / m, dtype=torch.float64))
    assert torch.allclose(plan.sum(1), torch.full((n,), 1 / n, dtype=torch.float64))
    assert (plan * cost).sum().item() == pytest.approx(programme(cost.numpy()), rel=1e-9)


def cost_of(a) -> np.ndarray:
    distance = ((a["fs"][:, None] - a["ft"][None]) ** 2).sum(-1)
    return 0.3 * distance - 0.7 * np.log(a["pt"])[:, a["y"]].T


def test_value() -> None:
    given = views()
    result = built(DeepJDOT, **PARAMS)(given, context())["deepjdot"]
    assert result.item() == pytest.approx(programme(cost_of(arrays(given))), rel=1e-4)


def test_gradient_treats_the_plan_as_constant() -> None:
    given = views()
    parts = [given["source"].features, given["target"].features, given["target"].logits]
    result = gradients(built(DeepJDOT, **PARAMS)(given, context()), *parts)
    a = arrays(given)
    plan = transport(torch.tensor(cost_of(a))).float()
    grads = 2 * 0.3 * (plan[:, :, None] * (parts[0][:, None] - parts[1][None]))
    assert torch.allclose(result[0], grads.sum(1), atol=1e-5)
    assert torch.allclose(result[1], -grads.sum(0), atol=1e-5)
    labels = torch.nn.functional.one_hot(given["source"].labels, 3).float()
    expected = 0.7 * (plan.sum(0)[:, None] * parts[2].softmax(1) - plan.T @ labels)
    assert torch.allclose(result[2], expected, atol=1e-5)
