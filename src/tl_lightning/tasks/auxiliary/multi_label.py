"""A further task with any number of labels a sample: head, loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAccuracy, MultilabelF1Score

from tl_lightning.errors import nearest
from tl_lightning.tasks.auxiliary.base import Facts, FurtherTask, ordered, present_mean

__all__ = ["MultiLabel"]

BETWEEN = ";"


class MultiLabel(FurtherTask):
    """A sigmoid and binary cross-entropy for each of ``K`` labels; NaN is a missing one.

    ``a;b`` has the labels a and b, ``;`` has none, an empty cell says nothing.

    Args:
        in_features: As in :class:`FurtherTask`.
        facts: ``names`` of the labels in the order of the outputs.
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
        self.num_labels = len(facts["names"])
        super().__init__(
            in_features=in_features, facts=facts, weight=weight, labels=labels, groups=groups,
            outputs=self.num_labels,
        )  # fmt: skip

    @classmethod
    def facts_of(cls, texts: Sequence[str], knobs: Mapping[str, Any], where: str) -> Facts:
        """Return the names of the labels."""
        return {"names": ordered({name for text in texts for name in _parts(text)}, where)}

    @classmethod
    def encode(cls, text: str, facts: Facts) -> list[float]:
        """Return 1 for each label that is there and 0 for the others."""
        own = _parts(text)
        for name in own:
            if name not in facts["names"]:
                hint = nearest(name, facts["names"])
                raise ValueError(f"{name!r} is no label that the source trains with ({hint})")
        return [float(name in own) for name in facts["names"]]

    @classmethod
    def missing(cls, facts: Facts) -> list[float]:
        """Return NaN for every label."""
        return [float("nan")] * len(facts["names"])

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross-entropy of logits ``(B, K)``, mean over the known entries."""
        known = self.known(labels)
        values = functional.binary_cross_entropy_with_logits(
            outputs.float(), torch.where(known, labels, 0.0), reduction="none"
        )
        return present_mean(values, known)

    def metrics(self, prefix: str) -> MetricCollection:
        """Return accuracy over all entries (micro) and macro F1."""
        k = self.num_labels
        return MetricCollection(
            {
                "acc": MultilabelAccuracy(k, average="micro", ignore_index=-1),
                "f1": MultilabelF1Score(k, average="macro", ignore_index=-1),
            },
            prefix=prefix,
        )

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch to the metrics."""
        known = self.known(labels)
        # As answers: of logits that all lie in [0, 1] the metrics would take 1/2 for the border.
        metrics.update((outputs > 0).long(), torch.where(known, labels, -1.0).long())


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(BETWEEN) if part.strip()]
