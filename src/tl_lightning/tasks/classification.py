"""Single-label classification: head, loss, metrics and decoding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from tl_lightning.tasks.head import Head

__all__ = ["Classification"]


class Classification(nn.Module):
    """One label a picture.

    Args:
        head: From features to logits.
        num_classes: ``K``.
        label_smoothing: Share of the target mass spread over all classes.
    """

    def __init__(self, *, head: Head, num_classes: int, label_smoothing: float) -> None:
        super().__init__()
        self.head = head
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's ``(features (B, D'), logits (B, K))``."""
        out: tuple[Tensor, Tensor] = self.head(features)
        return out

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy in float32 whatever the precision of the forward."""
        return functional.cross_entropy(
            logits.float(), labels, label_smoothing=self.label_smoothing
        )

    def metrics(self, prefix: str) -> MetricCollection:
        """Return accuracy (micro) and macro precision, recall and F1 under ``prefix``.

        A class that never occurs in the evaluated pictures counts in no macro average.
        """
        k = self.num_classes
        return MetricCollection(
            {
                "acc": MulticlassAccuracy(k, average="micro"),
                "precision": MulticlassPrecision(k, average="macro"),
                "recall": MulticlassRecall(k, average="macro"),
                "f1": MulticlassF1Score(k, average="macro"),
            },
            prefix=prefix,
        )
