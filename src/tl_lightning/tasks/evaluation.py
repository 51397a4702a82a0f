"""Validation and test metrics of the main task and the auxiliary tasks, over all ranks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from tl_lightning.tasks.auxiliary.base import AuxiliaryTask
from tl_lightning.tasks.class_set_metrics import ClassSetScores
from tl_lightning.tasks.classification import Classification
from tl_lightning.tasks.label_task import LabelTask
from tl_lightning.tasks.unlabelled_metrics import UnlabelledScores
from tl_lightning.types import DOMAINS, SplitKey

__all__ = ["EvalMetrics"]


class EvalMetrics(nn.Module):
    """Metrics by domain, split and task.

    Args:
        task: The main task.
        aux_tasks: Auxiliary tasks by name.
        splits: Splits to keep metrics of.
    """

    def __init__(
        self,
        task: Classification | LabelTask,
        aux_tasks: Mapping[str, AuxiliaryTask],
        splits: Sequence[str] = ("val", "test"),
    ) -> None:
        super().__init__()
        # A tuple hides the modules from the state dict, which already has them.
        self.aux_tasks = tuple(aux_tasks.items())
        self.task = (task,)
        self.metrics = nn.ModuleDict()
        for key in (SplitKey(domain, split) for domain in DOMAINS for split in splits):
            self.metrics[str(key)] = task.metrics(prefix=f"{key}/")
            for name, aux_task in self.aux_tasks:
                self.metrics[f"{key}/{name}"] = aux_task.metrics(prefix=f"{key}/{name}/")
        #: Loss of the labelled validation samples, for the learning curves: of classes, their
        #: cross-entropy.
        self.losses = nn.ModuleDict(
            {str(SplitKey(domain, "val")): MeanMetric("disable") for domain in DOMAINS}
        )
        #: Of a target whose classes may be others, tested with labels.
        self.class_sets = ClassSetScores(task.num_classes)
        #: Metrics whose batches had labels, on any rank.
        self.scored: set[str] = set()
        self.of_classes = isinstance(task, Classification)
        #: Scores of the target by split: always in validation, in a test without labels.
        self.unlabelled = nn.ModuleDict(
            {name: UnlabelledScores(task.num_classes) for name in splits}
        )

    def update(
        self,
        key: SplitKey,
        features: Tensor,
        logits: Tensor,
        labels: Tensor | None,
        aux_labels: Mapping[str, Tensor],
        rejected: Tensor | None = None,
    ) -> None:
        """Update the metrics with a batch.

        Args:
            key: The split that the batch is from.
            features: Input features ``(B, D)`` of the main task's classifier.
            logits: ``(B, K)``.
            labels: Class indices ``(B,)``, or None for unlabelled samples; ``K`` for samples of no
                class, which only count in the metrics of class sets.
            aux_labels: Auxiliary labels by task name.
            rejected: Samples ``(B,)`` taken for none of the classes, or None.
        """
        target = key.domain == "target" and self.of_classes
        if target and (key.split == "val" or labels is None):
            self._scores(key.split).update(logits)
        if labels is None:
            return
        # Even if this rank has no labelled sample, because all ranks reduce together.
        self.scored.add(str(key))
        if self.task[0].class_sets and key == ("target", "test"):
            predicted = logits.argmax(1)
            if rejected is not None:
                predicted = predicted.masked_fill(rejected, logits.shape[1])
            self.class_sets.update(predicted, labels)
        if self.of_classes and not (known := labels < logits.shape[1]).all():
            features, logits, labels = features[known], logits[known], labels[known]
            aux_labels = {name: values[known] for name, values in aux_labels.items()}
        if len(labels):
            self.task[0].score(self._of(str(key)), logits, labels)
            if key.split == "val":
                self._loss(key).update(self.task[0].sample_losses(logits, labels))
        for name, task in self.aux_tasks:
            own = task.labels_of(labels, aux_labels, name)
            if own is not None:
                outputs = task(features)
                self.scored.add(f"{key}/{name}")
                if len(own):
                    task.score(self._of(f"{key}/{name}"), outputs, own)

    def compute(self, split: str) -> Iterator[dict[str, Tensor]]:
        """Yield the metrics of a split by full name, and reset them."""
        for domain in DOMAINS:
            key = str(SplitKey(domain, split))
            if split == "val" and key in self.scored:
                yield {f"{key}/loss": _of_all_ranks(self._loss(key))}
                self._loss(key).reset()
            for name in (key, *(f"{key}/{task}" for task, _ in self.aux_tasks)):
                if name in self.scored:
                    yield _of_all_ranks(self._of(name))
                self._of(name).reset()
                self.scored.discard(name)
        if split == "test" and self.class_sets.update_called:
            yield {f"target/test/{name}": v for name, v in self.class_sets.compute().items()}
            self.class_sets.reset()
        scores = self._scores(split)
        if scores.update_called:
            yield {f"target/{split}/{name}": value for name, value in scores.compute().items()}
            scores.reset()

    def _scores(self, split: str) -> UnlabelledScores:
        scores = self.unlabelled[split]
        assert isinstance(scores, UnlabelledScores)
        return scores

    def _loss(self, key: SplitKey | str) -> MeanMetric:
        loss = self.losses[str(key)]
        assert isinstance(loss, MeanMetric)
        return loss

    def _of(self, name: str) -> MetricCollection:
        metrics = self.metrics[name]
        assert isinstance(metrics, MetricCollection)
        return metrics


def _of_all_ranks(metrics: MetricCollection | MeanMetric) -> Any:
    """Compute the metrics over all ranks, even if this rank has had no update."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
        return metrics.compute()
