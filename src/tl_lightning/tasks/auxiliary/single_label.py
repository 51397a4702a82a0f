"""Single-label auxiliary task: one class per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tl_lightning.errors import nearest
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask, LabelInfo, ordered, present_count

__all__ = ["SingleLabel"]


class SingleLabel(AuxiliaryTask):
    """Softmax cross-entropy over ``K`` auxiliary classes; missing labels are -1.

    Args:
        in_features: As in :class:`AuxiliaryTask`.
        label_info: ``names`` of the classes in index order.
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
        self.num_classes = len(label_info["names"])
        super().__init__(
            in_features=in_features, label_info=label_info, weight=weight, labels=labels,
            groups=groups, outputs=self.num_classes,
        )  # fmt: skip

    @classmethod
    def label_info_of(
        cls, texts: Sequence[str], params: Mapping[str, Any], where: str
    ) -> LabelInfo:
        """Return the class names."""
        return {"names": ordered(set(texts), where)}

    @classmethod
    def encode(cls, text: str, label_info: LabelInfo) -> int:
        """Return the class index."""
        if text not in label_info["names"]:
            hint = nearest(text, label_info["names"])
            raise ValueError(f"{text!r} is not one of the source's training labels ({hint})")
        return int(label_info["names"].index(text))

    @classmethod
    def missing(cls, label_info: LabelInfo) -> int:
        """Return -1."""
        return -1

    @classmethod
    def array(cls, values: Sequence[Any]) -> NDArray[Any]:
        """Return class indices ``(N,)``."""
        return np.asarray(values, dtype=np.int64)

    def known(self, labels: Tensor) -> Tensor:
        """Return a mask of the labels that are not -1."""
        return labels >= 0

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of outputs ``(B, K)`` and labels ``(B,)``."""
        total = functional.cross_entropy(outputs.float(), labels, ignore_index=-1, reduction="sum")
        return total / present_count(self.known(labels))

    def metrics(self, prefix: str) -> MetricCollection:
        """Return accuracy (micro) and macro F1."""
        k = self.num_classes
        return MetricCollection(
            {
                "acc": MulticlassAccuracy(k, average="micro", ignore_index=-1),
                "f1": MulticlassF1Score(k, average="macro", ignore_index=-1),
            },
            prefix=prefix,
        )

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        metrics.update(outputs.float(), labels)
