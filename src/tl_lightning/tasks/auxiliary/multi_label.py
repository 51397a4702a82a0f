"""Multi-label auxiliary task: any number of labels per sample."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MultilabelAccuracy,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)
from torchmetrics.utilities.data import dim_zero_cat

from tl_lightning.errors import nearest
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask, LabelInfo, ordered, present_mean

__all__ = ["SEPARATOR", "MultiLabel"]

#: Between the labels of a cell.
SEPARATOR = ";"


class MeanAveragePrecision(MultilabelAveragePrecision):
    """Mean of the average precision over the labels that occur; NaN if none does.

    torchmetrics takes 0 for a label that does not occur, and warns of it at every validation.

    Args:
        num_labels: ``K``.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="none", ignore_index=-1)

    def compute(self) -> Tensor:  # type: ignore[override]  # as in torchmetrics
        """Return the mean over all samples added so far."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No positive samples found in target")
            each: Tensor = super().compute()
        return each[(dim_zero_cat(self.target) == 1).any(0)].mean()


class MultiLabel(AuxiliaryTask):
    """Binary cross-entropy for each of ``K`` labels; missing entries are NaN.

    The cell ``a;b`` has the labels a and b, ``;`` has no labels, an empty cell is missing.

    Args:
        in_features: As in :class:`AuxiliaryTask`.
        label_info: ``names`` of the labels in output order.
        weight: As in :class:`AuxiliaryTask`.
        labels: As in :class:`AuxiliaryTask`.
        groups: As in :class:`AuxiliaryTask`.
    """

    def __init__(
        self,
        *,
        in_features: int,
        label_info: LabelInfo,
        weight: float,
        labels: str | None,
        groups: str | None,
    ) -> None:
        self.num_labels = len(label_info["names"])
        super().__init__(
            in_features=in_features, label_info=label_info, weight=weight, labels=labels,
            groups=groups, outputs=self.num_labels,
        )  # fmt: skip

    @classmethod
    def label_info_of(
        cls, texts: Sequence[str], params: Mapping[str, Any], where: str
    ) -> LabelInfo:
        """Return the label names."""
        return {"names": ordered({name for text in texts for name in _parts(text)}, where)}

    @classmethod
    def encode(cls, text: str, label_info: LabelInfo) -> list[float]:
        """Return the labels as a vector of zeros and ones."""
        present = _parts(text)
        for name in present:
            if name not in label_info["names"]:
                hint = nearest(name, label_info["names"])
                raise ValueError(f"{name!r} is not one of the source's training labels ({hint})")
        return [float(name in present) for name in label_info["names"]]

    @classmethod
    def missing(cls, label_info: LabelInfo) -> list[float]:
        """Return NaN for every label."""
        return [float("nan")] * len(label_info["names"])

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of logits ``(B, K)`` over the known entries."""
        known = self.known(labels)
        values = functional.binary_cross_entropy_with_logits(
            outputs.float(), torch.where(known, labels, 0.0), reduction="none"
        )
        return present_mean(values, known)

    def metrics(self, prefix: str) -> MetricCollection:
        """Return micro accuracy over all entries, macro F1 and mean average precision."""
        k = self.num_labels
        return MetricCollection(
            {
                "acc": MultilabelAccuracy(k, average="micro", ignore_index=-1),
                "f1": MultilabelF1Score(k, average="macro", ignore_index=-1),
                "map": MeanAveragePrecision(k),
            },
            prefix=prefix,
        )

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        known = self.known(labels)
        # Not logits, which torchmetrics takes for probabilities if all of them are in [0, 1].
        metrics.update(outputs.float().sigmoid(), torch.where(known, labels, -1.0).long())


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(SEPARATOR) if part.strip()]
