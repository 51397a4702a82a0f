"""Epoch means accumulated without per-step logging or device synchronisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["EpochMeans"]

_PENDING = 256  # values to keep per name before summation


class EpochMeans:
    """Batch-size-weighted means of named scalars.

    A step only appends to a list, without computing or waiting for the device. Sums are float64.

    >>> means = EpochMeans()
    >>> means.add({"loss": torch.tensor(1.0)}, 1)
    >>> means.add({"loss": torch.tensor(4.0)}, 2)
    >>> means.take()
    ({'loss': 3.0}, 3)
    """

    def __init__(self) -> None:
        self.pending: dict[str, list[Tensor | float]] = {}
        self.weights: dict[str, list[int]] = {}
        self.sums: dict[str, tuple[float, int]] = {}
        self.marks: dict[str, int] = {}

    def begin(self) -> None:
        """Mark the start of a batch."""
        for name, values in list(self.pending.items()):
            if len(values) >= _PENDING:
                self._sum(name)
        self.marks = {name: len(values) for name, values in self.pending.items()}

    def undo(self) -> None:
        """Discard the values added since the start of the batch.

        >>> means = EpochMeans()
        >>> means.add({"loss": 1.0}, 1)
        >>> means.begin()
        >>> means.add({"loss": float("nan"), "other": 2.0}, 1)
        >>> means.undo()
        >>> means.take()
        ({'loss': 1.0}, 1)
        """
        for name in list(self.pending):
            mark = self.marks.get(name, 0)
            del self.pending[name][mark:], self.weights[name][mark:]

    def add(self, values: Mapping[str, Tensor | float], size: int) -> None:
        """Add the values of a batch with ``size`` samples."""
        for name, value in values.items():
            pending = self.pending.setdefault(name, [])
            pending.append(value.detach() if isinstance(value, Tensor) else value)
            self.weights.setdefault(name, []).append(size)

    def _sum(self, name: str) -> None:
        values, weights = self.pending.pop(name, []), self.weights.pop(name, [])
        if not values:
            return
        tensors = [torch.as_tensor(value) for value in values]
        device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
        stacked = torch.stack([t.to(device, torch.float32).reshape(()) for t in tensors]).cpu()
        total, count = self.sums.get(name, (0.0, 0))
        sizes = torch.tensor(weights, dtype=torch.float64)
        self.sums[name] = (total + float(stacked.double() @ sizes), count + sum(weights))

    def take(self) -> tuple[dict[str, float], int]:
        """Return the means and the largest number of samples behind any of them, then reset."""
        state = self.state_dict()
        self.sums = {}
        size = max((count for _, count in state.values()), default=1)
        return {name: total / count for name, (total, count) in state.items()}, size

    def state_dict(self) -> dict[str, Any]:
        """Return the current sums as plain numbers."""
        for name in list(self.pending):
            self._sum(name)
        return dict(self.sums)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums from a checkpoint."""
        self.pending, self.weights = {}, {}
        self.sums = {name: (float(total), int(count)) for name, (total, count) in state.items()}
