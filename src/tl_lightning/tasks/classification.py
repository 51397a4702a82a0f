"""Single-label classification: head, loss and metrics."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from tl_lightning.losses.classification import CrossEntropy
from tl_lightning.tasks.head import Head

__all__ = ["Classification"]


class Classification(nn.Module):
    """Classification with one label per sample.

    Args:
        head: Maps features to logits.
        num_classes: ``K``.
        loss: Maps logits and labels (class indices or soft labels) to a scalar.
    """

    def __init__(self, *, head: Head, num_classes: int, loss: CrossEntropy) -> None:
        super().__init__()
        self.head = head
        self.num_classes = num_classes
        self.loss_fn = loss

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's ``(features (B, D'), logits (B, K))``."""
        out: tuple[Tensor, Tensor] = self.head(features)
        return out

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits ``(B, K)``, computed in float32."""
        out: Tensor = self.loss_fn(logits, labels)
        return out

    def metrics(self, prefix: str) -> MetricCollection:
        """Return accuracy (micro) and macro precision, recall and F1 under ``prefix``.

        Classes that neither occur in the evaluated samples nor are predicted are ignored in macro
        averages; classes that are only predicted count as 0.
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
