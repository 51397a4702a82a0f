"""Multi-label auxiliary task: any number of labels per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAccuracy, MultilabelF1Score

from tl_lightning.errors import nearest
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask, LabelInfo, ordered, present_mean

__all__ = ["SEPARATOR", "MultiLabel"]

#: Between the labels of a cell.
SEPARATOR = ";"


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
        """Return micro accuracy over all entries and macro F1."""
        k = self.num_labels
        return MetricCollection(
            {
                "acc": MultilabelAccuracy(k, average="micro", ignore_index=-1),
                "f1": MultilabelF1Score(k, average="macro", ignore_index=-1),
            },
            prefix=prefix,
        )

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        known = self.known(labels)
        # Pass decisions: torchmetrics thresholds logits at 1/2 if all of them are in [0, 1].
        metrics.update((outputs > 0).long(), torch.where(known, labels, -1.0).long())


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(SEPARATOR) if part.strip()]
