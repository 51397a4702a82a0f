"""A further task with one label a sample: head, loss and metrics."""

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
from tl_lightning.tasks.auxiliary.base import Facts, FurtherTask, ordered, present_count

__all__ = ["SingleLabel"]


class SingleLabel(FurtherTask):
    """Softmax cross-entropy over ``K`` classes of its own; -1 is a missing label.

    Args:
        in_features: As in :class:`FurtherTask`.
        facts: ``names``, the classes in the order of their numbers.
        weight: As there.
        labels: As there.
        groups: As there.
    """

    def __init__(
        self,
        *,
        in_features: int,
        facts: Facts,
        weight: float,
        labels: str | None,
        groups: str | None,
    ) -> None:
        self.num_classes = len(facts["names"])
        super().__init__(
            in_features=in_features, facts=facts, weight=weight, labels=labels, groups=groups,
            outputs=self.num_classes,
        )  # fmt: skip

    @classmethod
    def facts_of(cls, texts: Sequence[str], knobs: Mapping[str, Any], where: str) -> Facts:
        """Return the names of the classes."""
        return {"names": ordered(set(texts), where)}

    @classmethod
    def encode(cls, text: str, facts: Facts) -> int:
        """Return the class's number."""
        if text not in facts["names"]:
            hint = nearest(text, facts["names"])
            raise ValueError(f"{text!r} is no label that the source trains with ({hint})")
        return int(facts["names"].index(text))

    @classmethod
    def missing(cls, facts: Facts) -> int:
        """Return -1."""
        return -1

    @classmethod
    def array(cls, values: Sequence[Any]) -> NDArray[Any]:
        """Return class numbers ``(N,)``."""
        return np.asarray(values, dtype=np.int64)

    def known(self, labels: Tensor) -> Tensor:
        """Return which labels are not -1."""
        return labels >= 0

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of outputs ``(B, K)`` and labels ``(B,)``."""
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
        """Add a batch to the metrics."""
        metrics.update(outputs.float(), labels)
