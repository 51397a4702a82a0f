"""The metrics of single-label classification; one row of :data:`METRICS` each.

Nothing here imports torch before a metric is built, so that reports can read the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["METRICS", "MetricInfo", "is_fraction", "label_of"]


@dataclass(frozen=True)
class MetricInfo:
    """One metric.

    Attributes:
        label: Name in reports.
        cls: Class in ``torchmetrics.classification``.
        average: Its ``average``.
        is_fraction: Whether values are in [0, 1] and shown in percent.
    """

    label: str
    cls: str
    average: str
    is_fraction: bool = True

    def build(self, num_classes: int) -> Metric:
        """Return a new metric for ``num_classes`` classes."""
        import torchmetrics.classification

        metric: Metric = getattr(torchmetrics.classification, self.cls)(
            num_classes, average=self.average
        )
        return metric


#: By the name that follows ``source/val/`` and the like.
METRICS = {
    "acc": MetricInfo("accuracy", "MulticlassAccuracy", "micro"),
    "precision": MetricInfo("precision", "MulticlassPrecision", "macro"),
    "recall": MetricInfo("recall", "MulticlassRecall", "macro"),
    "f1": MetricInfo("F1", "MulticlassF1Score", "macro"),
}
#: Scores without labels, in nats, and errors of numbers, in their unit.
_SCORES = {
    "entropy": "entropy (nats)", "im": "information maximisation (nats)",
    "mae": "mean absolute error", "rmse": "root mean squared error", "r2": "R squared",
}  # fmt: skip
#: Labels of other metrics that users add or that auxiliary tasks have; all are fractions.
_OTHERS = {
    "accuracy": "accuracy", "auroc": "AUROC", "top5": "top-5", "top5_acc": "top-5 accuracy",
    "map": "mean average precision",
    "known_acc": "known-class accuracy, overall", "known_class_acc": "known-class accuracy, mean",
    "unknown_recall": "unknown recall", "h_score": "H-score",
    "mean_domain_acc": "accuracy, mean over domains", "worst_domain_acc": "accuracy, worst domain",
}  # fmt: skip
#: Prefix of the accuracy on one of several domains.
_OF_DOMAIN = "acc_"


def is_fraction(name: str) -> bool:
    """Return whether a metric is in [0, 1] and shown in percent.

    >>> is_fraction("acc"), is_fraction("loss")
    (True, False)
    """
    if name in METRICS:
        return METRICS[name].is_fraction
    return name in _OTHERS or name.startswith(_OF_DOMAIN)


def label_of(name: str) -> str:
    """Return the name of a metric in reports.

    >>> label_of("f1"), label_of("top5_acc"), label_of("my_metric"), label_of("acc_photo")
    ('F1', 'top-5 accuracy', 'my metric', 'accuracy, photo')
    """
    if name in METRICS:
        return METRICS[name].label
    if name.startswith(_OF_DOMAIN):
        return f"accuracy, {name.removeprefix(_OF_DOMAIN)}"
    return _OTHERS.get(name) or _SCORES.get(name) or name.replace("_", " ")
