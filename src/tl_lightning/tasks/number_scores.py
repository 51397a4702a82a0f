"""Errors of predicted numbers, exact over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["NumberScores"]


class NumberScores(Metric):
    """``mae``, ``rmse`` and ``r2``: means over the outputs, and of each of several outputs.

    The errors are in the unit of the labels. ``r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2`` is NaN
    for fewer than two samples, or equal labels. Sums are float64.

    Args:
        names: Names of the outputs.

    >>> scores = NumberScores(["age"])
    >>> scores.update(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [2.0], [6.0]]))
    >>> {name: round(value.item(), 3) for name, value in scores.compute().items()}
    {'mae': 1.0, 'rmse': 1.732, 'r2': 0.357}
    """

    full_state_update = False
    count: Tensor
    absolute: Tensor
    squared: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        for name in ("absolute", "squared", "total", "squares"):
            zeros = torch.zeros(len(self.names), dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add predictions and labels ``(B, K)``."""
        labels = labels.double()
        errors = predicted.double() - labels
        self.count += len(labels)
        self.absolute += errors.abs().sum(0)
        self.squared += errors.square().sum(0)
        self.total += labels.sum(0)
        self.squares += labels.square().sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics over all samples added so far."""
        count = self.count.clamp_min(1)
        spread = self.squares - self.total.square() / count
        known = (spread > 1e-12 * self.squares) & (self.count > 1)
        each = {
            "mae": self.absolute / count,
            "rmse": (self.squared / count).sqrt(),
            "r2": torch.where(known, 1 - self.squared / spread, torch.nan),
        }
        found = {name: values.mean().float() for name, values in each.items()}
        if len(self.names) > 1:
            for name, values in each.items():
                found |= {f"{name}_{one.replace('/', '_')}": value.float()
                          for one, value in zip(self.names, values, strict=True)}  # fmt: skip
        return found
