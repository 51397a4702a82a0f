"""DeepJDOT: joint optimal transport of features and labels.

Damodaran, Kellenberger, Flamary, Tuia, Courty (2018): DeepJDOT: Deep Joint Distribution Optimal
Transport for Unsupervised Domain Adaptation. ECCV.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.types import Context, Views

__all__ = ["DeepJDOT", "transport"]


def transport(cost: Tensor) -> Tensor:
    """Return the exact optimal transport plan ``(N, M)`` between uniform distributions.

    The plan sums to 1, or is NaN if a cost is not finite. For equal numbers of points it is an
    assignment (Birkhoff); otherwise the points are replicated up to the least common multiple of
    ``N`` and ``M``.

    Args:
        cost: ``(N, M)``; treated as a constant.

    >>> transport(torch.tensor([[0.0, 5.0], [5.0, 0.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    from scipy.optimize import linear_sum_assignment

    n, m = cost.shape
    size = int(np.lcm(n, m))
    values = cost.detach().cpu().double().numpy()
    if not np.isfinite(values).all():  # the solver raises an error that names no file
        return torch.full_like(cost, torch.nan)
    rows, columns = linear_sum_assignment(
        values.repeat(size // n, axis=0).repeat(size // m, axis=1)
    )
    plan = np.zeros((n, m))
    np.add.at(plan, (rows // (size // n), columns // (size // m)), 1 / size)
    return torch.from_numpy(plan).to(cost)


class DeepJDOT(Penalty):
    """Transport cost between source (features, labels) and target (features, predictions).

    ``sum_ij g_ij (alpha |f_i - f_j|^2 + beta CE(y_i, p_j))``, where ``g`` is the optimal plan for
    the same cost, treated as a constant.

    Args:
        alpha: Weight of the squared feature distance.
        beta: Weight of the cross-entropy between target prediction and source label.
        kwargs: As in :class:`Penalty`.
    """

    def __init__(self, *, alpha: float, beta: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha
        self.beta = beta

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the transport cost of the batch."""
        source, target = views["source"], views["target"]
        distance = torch.cdist(
            source.features, target.features, compute_mode="donot_use_mm_for_euclid_dist"
        ).square()
        mismatch = -target.logits.log_softmax(1).T[source.require("labels")]
        cost = self.alpha * distance + self.beta * mismatch
        return (transport(cost) * cost).sum()
