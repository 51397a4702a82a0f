"""A further task with levels in an order: head, loss and metrics."""

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
from tl_lightning.tasks.auxiliary.base import Facts, FurtherTask, ordered, present_mean

__all__ = ["Coral", "Ordinal"]


class Coral(nn.Module):
    """``f_k(x) = w x + b_k``: one weight vector and ``K - 1`` thresholds.

    Args:
        in_features: Width of ``x``.
        levels: ``K``.
    """

    def __init__(self, in_features: int, levels: int) -> None:
        super().__init__()
        self.line = nn.Linear(in_features, 1, bias=False)
        self.thresholds = nn.Parameter(torch.zeros(levels - 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, K - 1)`` of features ``(B, D)``."""
        out: Tensor = self.line(features) + self.thresholds
        return out


class Ordinal(FurtherTask):
    r"""CORAL: is the level above the k-th? All ``K - 1`` questions share their weights.

    Cao, Mirjalili, Raschka (2020): Rank consistent ordinal regression for neural networks with
    application to age estimation. Pattern Recognition Letters 140. ``P(y > k) = sigma(w x + b_k)``
    and :math:`L = -\sum_k [y > k] \log P_k + [y \le k] \log (1 - P_k)` a sample, with all
    importance weights 1; the predicted level is the number of questions with ``P_k > 1/2``. -1 is
    a missing label.

    Args:
        in_features: As in :class:`FurtherTask`.
        facts: ``names`` of the levels from low to high.
        weight: As there.
        labels: As there.
        groups: As there.
        levels: The levels from low to high; None where all are whole numbers.
    """

    def __init__(
        self,
        *,
        in_features: int,
        facts: Facts,
        weight: float,
        labels: str | None,
        groups: str | None,
        levels: Sequence[str | int] | None,
    ) -> None:
        self.num_levels = len(facts["names"])
        super().__init__(
            in_features=in_features, facts=facts, weight=weight, labels=labels, groups=groups,
            outputs=1,
        )  # fmt: skip
        self.head = Coral(in_features, self.num_levels)

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with the settings, a sentence each."""
        yield from super().faults(where, knobs)
        levels = knobs.get("levels")
        if levels is not None and len(set(map(str, levels))) < max(2, len(levels)):
            yield (
                f"{where}.levels={list(levels)} must name at least two levels, each once; type "
                f"{where}.levels=[low,middle,high]"
            )

    @classmethod
    def facts_of(cls, texts: Sequence[str], knobs: Mapping[str, Any], where: str) -> Facts:
        """Return the levels from low to high."""
        if knobs.get("levels") is not None:
            return {"names": [str(level) for level in knobs["levels"]]}
        for text in texts:
            if not re.fullmatch(r"[+-]?\d+", text):
                raise DataError(
                    f"{where}.levels=null takes whole numbers for levels, but its labels hold "
                    f"{text!r}; type {where}.levels=[low,middle,high]"
                )
        return {"names": ordered(set(texts), where)}

    @classmethod
    def encode(cls, text: str, facts: Facts) -> int:
        """Return the level's number, from 0."""
        if text not in facts["names"]:
            raise ValueError(f"{text!r} is no level of it ({nearest(text, facts['names'])})")
        return int(facts["names"].index(text))

    @classmethod
    def missing(cls, facts: Facts) -> int:
        """Return -1."""
        return -1

    @classmethod
    def array(cls, values: Sequence[Any]) -> NDArray[Any]:
        """Return level numbers ``(N,)``."""
        return np.asarray(values, dtype=np.int64)

    def known(self, labels: Tensor) -> Tensor:
        """Return which labels are not -1."""
        return labels >= 0

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits ``(B, K - 1)`` and levels ``(B,)``."""
        above = labels[:, None] > torch.arange(self.num_levels - 1, device=labels.device)
        values = functional.binary_cross_entropy_with_logits(
            outputs.float(), above.float(), reduction="none"
        )
        return present_mean(values.sum(dim=1), self.known(labels))

    def metrics(self, prefix: str) -> MetricCollection:
        """Return accuracy, and the mean absolute error in levels."""
        accuracy = MulticlassAccuracy(self.num_levels, average="micro", ignore_index=-1)
        return MetricCollection(
            {"acc": accuracy, "mae": MeanAbsoluteError()}, prefix=prefix, compute_groups=False
        )

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch to the metrics."""
        known, guess = self.known(labels), (outputs > 0).sum(dim=1)
        metrics["acc"].update(guess, labels)
        metrics["mae"].update(guess[known], labels[known])
