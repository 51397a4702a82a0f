"""A further task with a number a sample: head, loss and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score

from tl_lightning.errors import DataError
from tl_lightning.tasks.auxiliary.base import Facts, FurtherTask, present_mean

__all__ = ["Regression"]


class Regression(FurtherTask):
    """Squared error of standardised numbers; NaN is a missing one.

    ``z = (y - mean) / std`` with the mean and the standard deviation (ddof 0) of the source's
    training labels; metrics are in the unit of the labels.

    Args:
        in_features: As in :class:`FurtherTask`.
        facts: ``mean`` and ``std``.
        weight: As there.
        labels: As there.
        groups: As there; then each class of the table counts once in mean and deviation.
    """

    share: ClassVar[float] = 0.5

    def __init__(
        self,
        *,
        in_features: int,
        facts: Facts,
        weight: float,
        labels: str | None,
        groups: str | None,
    ) -> None:
        super().__init__(
            in_features=in_features, facts=facts, weight=weight, labels=labels, groups=groups,
            outputs=1,
        )  # fmt: skip
        self.mean, self.std = facts["mean"], facts["std"]

    @classmethod
    def facts_of(cls, texts: Sequence[str], knobs: Mapping[str, Any], where: str) -> Facts:
        """Return mean and standard deviation."""
        values = np.array([_number(text, where) for text in texts])
        if not values.std() > 0:
            raise DataError(
                f"{where} is {values[0]:g} in all training samples of the source, which leaves "
                "nothing to learn; name another column, or leave the task out"
            )
        return {"mean": float(values.mean()), "std": float(values.std())}

    @classmethod
    def encode(cls, text: str, facts: Facts) -> float:
        """Return the number."""
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is not finite")
        return value

    @classmethod
    def missing(cls, facts: Facts) -> float:
        """Return NaN."""
        return math.nan

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error of outputs ``(B, 1)`` and standardised labels ``(B,)``."""
        known = self.known(labels)
        wanted = (torch.where(known, labels, self.mean) - self.mean) / self.std
        return present_mean((outputs.float().squeeze(1) - wanted).square(), known)

    def metrics(self, prefix: str) -> MetricCollection:
        """Return mean absolute error and coefficient of determination, in the labels' unit."""
        return MetricCollection({"mae": MeanAbsoluteError(), "r2": _R2()}, prefix=prefix)

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch to the metrics."""
        known = self.known(labels)
        guess = outputs.float().squeeze(1) * self.std + self.mean
        metrics.update(guess[known], labels[known])


class _R2(R2Score):
    """NaN in place of an error where there are fewer than two numbers."""

    def compute(self) -> Tensor:
        total: Any = self.total
        if total < 2:
            return torch.tensor(math.nan, device=total.device)
        return super().compute()


def _number(text: str, where: str) -> float:
    try:
        return Regression.encode(text, {})
    except ValueError:
        raise DataError(
            f"{where} is a regression, but its labels hold {text!r}; mend the table (numbers with "
            "a decimal point, an empty cell where one is missing), or choose another kind of task"
        ) from None
