"""What every further task is: labels of its own, a head on the shared features, a loss, metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tl_lightning.distributed.ranks import rank_mean
from tl_lightning.errors import DataError

__all__ = ["Facts", "FurtherTask", "ordered", "present_count", "present_mean"]

#: What a task knows of its labels, as plain values: they go into the checkpoint.
Facts = dict[str, Any]


class FurtherTask(nn.Module):
    """Base of the tasks beside the main one; knows no Lightning, no optimizer, no loader.

    A kind says how labels are written (:meth:`facts_of`, :meth:`encode`), how wide its outputs are
    and what they cost. Labels that are missing count neither in the loss nor in the metrics.

    Args:
        in_features: Width ``D`` of the features that the main task's classifier sees.
        facts: What :meth:`facts_of` gave for the source's training labels.
        weight: Of its loss; 0 leaves the training as it is without the task.
        labels: The column of ``data.others`` that its labels stand in, or None.
        groups: Where its labels follow from the main task's, a table of ``class,label``, or None.
        outputs: Width of its outputs.
    """

    #: Factor on ``exp(-s)`` under ``balance=uncertainty``: 1/2 where the loss is a squared error.
    share: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        in_features: int,
        facts: Facts,
        weight: float,
        labels: str | None,
        groups: str | None,
        outputs: int,
    ) -> None:
        super().__init__()
        self.facts = facts
        self.weight = weight
        self.head: nn.Module = nn.Linear(in_features, outputs)
        table = facts.get("by_class")
        # Not in the state dict: the facts are in the checkpoint already.
        self.register_buffer(
            "by_class", None if table is None else self.tensor(np.asarray(table)), persistent=False
        )

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with the settings, a sentence each."""
        if knobs.get("weight", 0) < 0:
            yield f"{where}.weight={knobs['weight']} is below 0; type {where}.weight=1"
        given = [key for key in ("labels", "groups") if knobs.get(key) is not None]
        if len(given) != 1:
            said = "both are given" if given else "neither is given"
            yield (
                f"{where} takes its labels from {where}.labels (a column of data.others) or from "
                f"{where}.groups (a table class,label), and {said}; type one of them"
            )

    # -- labels ------------------------------------------------------------------------------
    @classmethod
    def facts_of(cls, texts: Sequence[str], knobs: Mapping[str, Any], where: str) -> Facts:
        """Return what must be known of the labels before others can be read.

        Args:
            texts: The source's training labels as written; none is missing.
            knobs: The task's settings.
            where: Names the task in errors, such as ``tasks.age``.

        Raises:
            DataError: If they are no labels of this kind.
        """
        raise NotImplementedError

    @classmethod
    def encode(cls, text: str, facts: Facts) -> Any:
        """Return one label as numbers; raises ValueError with the reason if it is none."""
        raise NotImplementedError

    @classmethod
    def missing(cls, facts: Facts) -> Any:
        """Return what stands for a label that is not there."""
        raise NotImplementedError

    @classmethod
    def is_missing(cls, text: str) -> bool:
        """Return whether a cell says nothing.

        >>> [FurtherTask.is_missing(text) for text in ("", " nan ", "none of them")]
        [True, True, False]
        """
        return text.strip().lower() in ("", "nan")

    @classmethod
    def array(cls, values: Sequence[Any]) -> NDArray[Any]:
        """Return encoded labels as one array of a fixed type."""
        return np.asarray(values, dtype=np.float32)

    @classmethod
    def tensor(cls, values: NDArray[Any]) -> Tensor:
        """Return encoded labels as a tensor of this kind's type."""
        return torch.from_numpy(cls.array(values))  # type: ignore[arg-type]

    def labels_of(self, labels: Tensor, others: Mapping[str, Tensor], name: str) -> Tensor | None:
        """Return this task's labels of a batch, or None where nobody gave any.

        Args:
            labels: The main task's class indices ``(B,)``.
            others: The further labels of the batch.
            name: This task's name.
        """
        if self.by_class is None:
            return others.get(name)
        table: Tensor = self.by_class  # type: ignore[assignment]
        return table[labels]

    # -- loss and metrics --------------------------------------------------------------------
    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs of features ``(B, D)``."""
        out: Tensor = self.head(features)
        return out

    def known(self, labels: Tensor) -> Tensor:
        """Return which labels are there, in the shape of the labels."""
        return ~labels.isnan()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss in float32 over the labels that are there; 0 if there is none."""
        raise NotImplementedError

    def metrics(self, prefix: str) -> MetricCollection:
        """Return the metrics under ``prefix``."""
        raise NotImplementedError

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch to the metrics."""
        raise NotImplementedError


def present_mean(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of the values that are known; 0, with gradients of 0, if there is none.

    >>> present_mean(torch.tensor([1.0, 9.0]), torch.tensor([True, False])).item()
    1.0
    >>> present_mean(torch.tensor([1.0]), torch.tensor([False])).item()
    0.0
    """
    return torch.where(known, values, 0.0).sum() / present_count(known)


def present_count(known: Tensor) -> Tensor:
    """Return how many are known, at least 1.

    Of several ranks it is their mean, so that the mean of their losses is the loss of one batch
    however the labels that are missing fall.
    """
    number = rank_mean(known.sum())
    return torch.where(number > 0, number, 1)


def ordered(names: set[str], where: str) -> list[str]:
    """Return at least two labels in order: as numbers if all are whole numbers, else as texts.

    Args:
        names: The labels.
        where: Names the task in the error.

    Raises:
        DataError: If there are fewer than two.

    >>> ordered({"10", "9"}, "tasks.age"), ordered({"b", "10", "9"}, "tasks.age")
    (['9', '10'], ['10', '9', 'b'])
    """
    if len(names) < 2:
        raise DataError(
            f"{where} has only the label {', '.join(names)!r} in the source's training samples; "
            "name another column or table, or leave the task out"
        )
    whole = all(re.fullmatch(r"[+-]?\d+", name) for name in names)
    return sorted(names, key=lambda name: (int(name), name) if whole else (0, name))
