"""Base class of the auxiliary tasks: labels, a head on the shared features, loss and metrics."""

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

__all__ = ["AuxiliaryTask", "LabelInfo", "ordered", "present_count", "present_mean"]

#: Label metadata of a task, such as class names; plain values, stored in the checkpoint.
LabelInfo = dict[str, Any]


class AuxiliaryTask(nn.Module):
    """Base class of the auxiliary tasks; independent of Lightning, optimizers and data loaders.

    Subclasses define how labels are parsed (:meth:`label_info_of`, :meth:`encode`), the output
    width, the loss and the metrics. Missing labels are ignored in both loss and metrics.

    Args:
        in_features: Width ``D`` of the main task's classifier input.
        label_info: Result of :meth:`label_info_of` for the source's training labels.
        weight: Weight of the loss; 0 is equivalent to training without the task.
        labels: Column of ``data.label_columns`` with the labels, or None.
        groups: Table ``class,label`` that maps the main task's classes to labels, or None.
        outputs: Width of the outputs.
    """

    #: Factor on ``exp(-s)`` with ``task_weighting=uncertainty``: 1/2 for squared errors.
    share: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        in_features: int,
        label_info: LabelInfo,
        weight: float,
        labels: str | None,
        groups: str | None,
        outputs: int,
    ) -> None:
        super().__init__()
        self.label_info = label_info
        self.weight = weight
        self.head: nn.Module = nn.Linear(in_features, outputs)
        table = label_info.get("by_class")
        # Not persistent, because the checkpoint already has the label info.
        self.register_buffer(
            "by_class", None if table is None else self.tensor(np.asarray(table)), persistent=False
        )

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield one message for each invalid setting."""
        if params.get("weight", 0) < 0:
            yield f"{where}.weight={params['weight']} must be at least 0; set {where}.weight=1"
        given = [key for key in ("labels", "groups") if params.get(key) is not None]
        if len(given) != 1:
            state = "both are set" if given else "neither is set"
            yield (
                f"{where} requires exactly one of {where}.labels (a column of data.label_columns) "
                f"and {where}.groups (a table class,label), but {state}; set one of them"
            )

    # -- labels ------------------------------------------------------------------------------
    @classmethod
    def label_info_of(
        cls, texts: Sequence[str], params: Mapping[str, Any], where: str
    ) -> LabelInfo:
        """Return the label metadata needed to encode labels.

        Args:
            texts: The source's training labels as strings, without missing ones.
            params: The task's settings.
            where: Config key of the task for error messages, such as ``aux_tasks.age``.

        Raises:
            DataError: If the labels are not valid for this kind of task.
        """
        raise NotImplementedError

    @classmethod
    def encode(cls, text: str, label_info: LabelInfo) -> Any:
        """Return a label as numbers; raise ValueError with the reason if it is not valid."""
        raise NotImplementedError

    @classmethod
    def missing(cls, label_info: LabelInfo) -> Any:
        """Return the value that represents a missing label."""
        raise NotImplementedError

    @classmethod
    def is_missing(cls, text: str) -> bool:
        """Return whether a cell has no label.

        >>> [AuxiliaryTask.is_missing(text) for text in ("", " nan ", "none of them")]
        [True, True, False]
        """
        return text.strip().lower() in ("", "nan")

    @classmethod
    def array(cls, values: Sequence[Any]) -> NDArray[Any]:
        """Return encoded labels as an array with the task's dtype."""
        return np.asarray(values, dtype=np.float32)

    @classmethod
    def tensor(cls, values: NDArray[Any]) -> Tensor:
        """Return encoded labels as a tensor with the task's dtype."""
        return torch.from_numpy(cls.array(values))  # type: ignore[arg-type]

    def labels_of(
        self, labels: Tensor, aux_labels: Mapping[str, Tensor], name: str
    ) -> Tensor | None:
        """Return this task's labels for a batch, or None if there are none.

        Args:
            labels: Class indices ``(B,)`` of the main task.
            aux_labels: Auxiliary labels of the batch by task name.
            name: Name of this task.
        """
        if self.by_class is None:
            return aux_labels.get(name)
        table: Tensor = self.by_class  # type: ignore[assignment]
        return table[labels]

    # -- loss and metrics --------------------------------------------------------------------
    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs for features ``(B, D)``."""
        out: Tensor = self.head(features)
        return out

    def known(self, labels: Tensor) -> Tensor:
        """Return a mask of the labels that are not missing, with the shape of ``labels``."""
        return ~labels.isnan()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the known labels, in float32; 0 if there are none."""
        raise NotImplementedError

    def metrics(self, prefix: str) -> MetricCollection:
        """Return the metrics under ``prefix``."""
        raise NotImplementedError

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        raise NotImplementedError


def present_mean(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of the known values; 0 with zero gradients if there are none.

    >>> present_mean(torch.tensor([1.0, 9.0]), torch.tensor([True, False])).item()
    1.0
    >>> present_mean(torch.tensor([1.0]), torch.tensor([False])).item()
    0.0
    """
    return torch.where(known, values, 0.0).sum() / present_count(known)


def present_count(known: Tensor) -> Tensor:
    """Return the number of known values, at least 1.

    With several ranks this is the mean over ranks, so that the mean of their losses equals the loss
    of the whole batch, however the missing labels are distributed.
    """
    number = rank_mean(known.sum())
    return torch.where(number > 0, number, 1)


def ordered(names: set[str], where: str) -> list[str]:
    """Return the sorted labels: numerically if all are integers, otherwise alphabetically.

    Args:
        names: The labels.
        where: Config key of the task for error messages.

    Raises:
        DataError: If there are fewer than two labels.

    >>> ordered({"10", "9"}, "aux_tasks.age"), ordered({"b", "10", "9"}, "aux_tasks.age")
    (['9', '10'], ['10', '9', 'b'])
    """
    if len(names) < 2:
        raise DataError(
            f"{where} has only the label {', '.join(names)!r} in the source's training samples; "
            "use another column or table, or remove the task"
        )
    numeric = all(re.fullmatch(r"[+-]?\d+", name) for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numeric else (0, name))
