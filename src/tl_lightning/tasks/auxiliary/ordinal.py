"""Ordinal auxiliary task: ordered levels, with the CORAL head and loss."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from tl_lightning.errors import DataError, nearest
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask, LabelInfo, ordered, present_mean

__all__ = ["Coral", "Ordinal"]


class Coral(nn.Module):
    """``f_k(x) = w x + b_k`` with one weight vector and ``K - 1`` thresholds.

    Args:
        in_features: Width of ``x``.
        levels: Number of levels ``K``.
    """

    def __init__(self, in_features: int, levels: int) -> None:
        super().__init__()
        self.line = nn.Linear(in_features, 1, bias=False)
        self.thresholds = nn.Parameter(torch.zeros(levels - 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, K - 1)`` for features ``(B, D)``."""
        out: Tensor = self.line(features) + self.thresholds
        return out


class Ordinal(AuxiliaryTask):
    r"""CORAL: ``K - 1`` binary classifiers "level greater than k" with shared weights.

    Cao, Mirjalili, Raschka (2020): Rank consistent ordinal regression for neural networks with
    application to age estimation. Pattern Recognition Letters 140. With ``P_k = P(y > k) =
    sigma(w x + b_k)``, the loss per sample is :math:`L = -\sum_k [y > k] \log P_k + [y \le k] \log
    (1 - P_k)`, with all importance weights 1; the predicted level is the number of classifiers with
    ``P_k > 1/2``. Missing labels are -1.

    Args:
        in_features: As in :class:`AuxiliaryTask`.
        label_info: ``names`` of the levels from low to high.
        weight: As in :class:`AuxiliaryTask`.
        labels: As in :class:`AuxiliaryTask`.
        groups: As in :class:`AuxiliaryTask`.
        levels: The levels from low to high, or None if all of them are integers.
    """

    def __init__(
        self,
        *,
        in_features: int,
        label_info: LabelInfo,
        weight: float,
        labels: str | None,
        groups: str | None,
        levels: Sequence[str | int] | None,
    ) -> None:
        self.num_levels = len(label_info["names"])
        super().__init__(
            in_features=in_features, label_info=label_info, weight=weight, labels=labels,
            groups=groups, outputs=1,
        )  # fmt: skip
        self.head = Coral(in_features, self.num_levels)

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield one message for each invalid setting."""
        yield from super().check_config(where, params)
        levels = params.get("levels")
        if levels is not None and len(set(map(str, levels))) < max(2, len(levels)):
            yield (
                f"{where}.levels={list(levels)} must be at least two distinct levels; set "
                f"{where}.levels=[low,middle,high]"
            )

    @classmethod
    def label_info_of(
        cls, texts: Sequence[str], params: Mapping[str, Any], where: str
    ) -> LabelInfo:
        """Return the levels from low to high."""
        if params.get("levels") is not None:
            return {"names": [str(level) for level in params["levels"]]}
        for text in texts:
            if not re.fullmatch(r"[+-]?\d+", text):
                raise DataError(
                    f"{where}.levels=null requires integer labels, but {text!r} is not an integer; "
                    f"set {where}.levels=[low,middle,high]"
                )
        return {"names": ordered(set(texts), where)}

    @classmethod
    def encode(cls, text: str, label_info: LabelInfo) -> int:
        """Return the index of the level."""
        if text not in label_info["names"]:
            raise ValueError(f"{text!r} is not a level ({nearest(text, label_info['names'])})")
        return int(label_info["names"].index(text))

    @classmethod
    def missing(cls, label_info: LabelInfo) -> int:
        """Return -1."""
        return -1

    @classmethod
    def array(cls, values: Sequence[Any]) -> NDArray[Any]:
        """Return level indices ``(N,)``."""
        return np.asarray(values, dtype=np.int64)

    def known(self, labels: Tensor) -> Tensor:
        """Return a mask of the labels that are not -1."""
        return labels >= 0

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the CORAL loss of logits ``(B, K - 1)`` and levels ``(B,)``."""
        above = labels[:, None] > torch.arange(self.num_levels - 1, device=labels.device)
        values = functional.binary_cross_entropy_with_logits(
            outputs.float(), above.float(), reduction="none"
        )
        return present_mean(values.sum(dim=1), self.known(labels))

    def metrics(self, prefix: str) -> MetricCollection:
        """Return accuracy and the mean absolute error in levels."""
        accuracy = MulticlassAccuracy(self.num_levels, average="micro", ignore_index=-1)
        return MetricCollection(
            {"acc": accuracy, "mae": MeanAbsoluteError()}, prefix=prefix, compute_groups=False
        )

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        known, predicted = self.known(labels), (outputs > 0).sum(dim=1)
        metrics["acc"].update(predicted, labels)
        metrics["mae"].update(predicted[known], labels[known])
