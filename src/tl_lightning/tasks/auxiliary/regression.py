"""Regression auxiliary task: one number per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score

from tl_lightning.errors import DataError
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask, LabelInfo, present_mean

__all__ = ["Regression"]


class Regression(AuxiliaryTask):
    """Squared error of standardised labels; missing labels are NaN.

    Labels are standardised as ``z = (y - mean) / std``, with the mean and standard deviation (ddof
    0) of the source's training labels. Metrics are in the unit of the labels.

    Args:
        in_features: As in :class:`AuxiliaryTask`.
        label_info: ``mean`` and ``std``.
        weight: As in :class:`AuxiliaryTask`.
        labels: As in :class:`AuxiliaryTask`.
        groups: As in :class:`AuxiliaryTask`; mean and std are then taken over the classes.
    """

    share: ClassVar[float] = 0.5

    def __init__(
        self,
        *,
        in_features: int,
        label_info: LabelInfo,
        weight: float,
        labels: str | None,
        groups: str | None,
    ) -> None:
        super().__init__(
            in_features=in_features, label_info=label_info, weight=weight, labels=labels,
            groups=groups, outputs=1,
        )  # fmt: skip
        self.mean, self.std = label_info["mean"], label_info["std"]

    @classmethod
    def label_info_of(
        cls, texts: Sequence[str], params: Mapping[str, Any], where: str
    ) -> LabelInfo:
        """Return mean and standard deviation of the labels."""
        values = np.array([_number(text, where) for text in texts])
        if not values.std() > 0:
            raise DataError(
                f"{where} is {values[0]:g} for all training samples of the source, so there is "
                "nothing to learn; use another column, or remove the task"
            )
        return {"mean": float(values.mean()), "std": float(values.std())}

    @classmethod
    def encode(cls, text: str, label_info: LabelInfo) -> float:
        """Return the number."""
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is not finite")
        return value

    @classmethod
    def missing(cls, label_info: LabelInfo) -> float:
        """Return NaN."""
        return math.nan

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared error of outputs ``(B, 1)`` and standardised labels ``(B,)``."""
        known = self.known(labels)
        target = (torch.where(known, labels, self.mean) - self.mean) / self.std
        return present_mean((outputs.float().squeeze(1) - target).square(), known)

    def metrics(self, prefix: str) -> MetricCollection:
        """Return the mean absolute error, in the labels' unit, and R squared."""
        return MetricCollection({"mae": MeanAbsoluteError(), "r2": _R2()}, prefix=prefix)

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        known = self.known(labels)
        predicted = outputs.float().squeeze(1) * self.std + self.mean
        metrics.update(predicted[known], labels[known])


class _R2(R2Score):
    """R squared that is NaN, instead of raising an error, for fewer than two samples."""

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
            f"{where} is a regression task, but the label {text!r} is not a finite number; fix the "
            "table (decimal point, empty cells for missing labels), or use another kind of task"
        ) from None
