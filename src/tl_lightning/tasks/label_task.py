"""Main tasks whose labels are numbers, or any number of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection

from tl_lightning.config.schema import TaskKind
from tl_lightning.tasks.auxiliary.multi_label import MultiLabel
from tl_lightning.tasks.head import Head
from tl_lightning.tasks.number_scores import NumberScores

__all__ = ["LabelSetTask", "LabelTask", "NumberTask", "label_task"]


class LabelTask(nn.Module):
    """Base class: a head, the loss of its outputs, and no classes.

    Args:
        head: Maps features to bottleneck features and outputs ``(B, K)``, see :class:`.head.Head`.
        loss: Maps outputs and targets ``(B, K)`` to losses ``(B, K)``.
        names: Names of the ``K`` outputs.
    """

    kind: TaskKind
    rejection = None
    class_sets = False

    def __init__(self, *, head: Any, loss: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.head = head
        self.loss_fn = loss
        self.names = tuple(names)
        #: ``K``.
        self.num_classes = len(self.names)
        #: What only classes have, see :class:`.classification.Classification`.
        self.prior: nn.Module = nn.Identity()
        self.recogniser: tuple[Any, ...] = ()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's ``(features (B, D'), outputs (B, K))``."""
        used, outputs = self.head(features)
        return used, outputs

    def sample_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss ``(B,)`` of outputs and labels ``(B, K)``: the mean over the outputs."""
        losses: Tensor = self.loss_fn(outputs.float(), self.targets(labels))
        return losses.mean(1)

    def loss(self, outputs: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of outputs and labels ``(B, K)``, in float32."""
        losses = self.sample_losses(outputs, labels)
        return losses.mean() if weights is None else (losses * weights).mean()

    def rejects(self, features: Tensor, logits: Tensor) -> Tensor | None:
        """Return None: only classes can be unknown."""
        return None

    def targets(self, labels: Tensor) -> Tensor:
        """Return what the outputs should be for labels ``(B, K)``."""
        return labels

    def values(self, outputs: Tensor) -> Tensor:
        """Return the predictions ``(B, K)`` as they are shown."""
        raise NotImplementedError

    def metrics(self, prefix: str) -> MetricCollection:
        """Return the metrics under ``prefix``."""
        raise NotImplementedError

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        raise NotImplementedError


class FullPrecision(nn.Linear):
    """A linear layer in float32 also where the network computes in 16 bits.

    Numbers in bfloat16 have less than three significant digits.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs ``(B, K)`` for features ``(B, D)``, in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return functional.linear(input.float(), self.weight.float(), self.bias.float())


class NumberTask(LabelTask):
    """Regression: outputs are standardised by mean and standard deviation of the training labels.

    Args:
        mean: Mean ``(K,)`` of the training labels.
        std: Their standard deviation ``(K,)``.
        kwargs: As in :class:`LabelTask`.
    """

    kind: TaskKind = "regression"
    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if Head.is_kind(type(self.head)):
            last = self.head.classifier[-1]
            layer = FullPrecision(last.in_features, last.out_features)
            layer.load_state_dict(last.state_dict())
            self.head.classifier[-1] = layer
        # A part of the weights, since a warm start goes back to the units of the earlier run.
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values))

    def targets(self, labels: Tensor) -> Tensor:
        """Return standardised labels."""
        return (labels.float() - self.mean) / self.std

    def values(self, outputs: Tensor) -> Tensor:
        """Return numbers in the unit of the labels."""
        return outputs.float() * self.std.to(outputs.device) + self.mean.to(outputs.device)

    def metrics(self, prefix: str) -> MetricCollection:
        """Return the errors in the unit of the labels."""
        return MetricCollection({"numbers": NumberScores(self.names)}, prefix=prefix)

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        metrics.update(self.values(outputs), labels)


class LabelSetTask(LabelTask):
    """Any number of labels of each sample: one logit each.

    Args:
        kwargs: As in :class:`LabelTask`.
    """

    kind: TaskKind = "multi_label"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        info = {"names": list(self.names)}
        self.part = MultiLabel(in_features=1, label_info=info, weight=1, labels=None, groups=None)
        self.part.head = nn.Identity()  # the outputs are those of the head

    def values(self, outputs: Tensor) -> Tensor:
        """Return the probability of each label."""
        return outputs.float().sigmoid()

    def metrics(self, prefix: str) -> MetricCollection:
        """Return micro accuracy over all entries, macro F1 and mean average precision."""
        return self.part.metrics(prefix)

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        self.part.score(metrics, outputs, labels)


def label_task(kind: TaskKind, head: Any, loss: nn.Module, learned: Mapping[str, Any]) -> LabelTask:
    """Return the main task of a kind.

    Args:
        kind: ``regression`` or ``multi_label``.
        head: With one output for each name.
        loss: As in :class:`LabelTask`.
        learned: What :class:`.encoding.Numbers` or :class:`.encoding.LabelSets` has learned.
    """
    parts: dict[str, Any] = {"head": head, "loss": loss, "names": learned["names"]}
    if kind == "multi_label":
        return LabelSetTask(**parts)
    columns = learned["columns"]
    mean, std = ([one[name] for one in columns] for name in ("mean", "std"))
    return NumberTask(mean=mean, std=std, **parts)
