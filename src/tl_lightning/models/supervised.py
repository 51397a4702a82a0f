"""Models that learn from labels alone; each says only which losses it has."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tl_lightning.models.base import TransferModule
from tl_lightning.types import Batch, Terms

__all__ = ["FeatureExtraction", "FineTuning", "LabelledTarget"]


class FineTuning(TransferModule):
    """Everything learns, from the labelled source alone (also the baseline ``source_only``)."""

    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the task's loss on what has labels."""
        return self.task_terms(self.views(batch))


class FeatureExtraction(FineTuning):
    """A frozen backbone and a head that learns.

    Frozen means frozen: the backbone is in evaluation mode (batch norm normalises by its stored
    statistics, which do not move), builds no graph, and is in no optimizer group.
    """

    takes_phases: ClassVar[bool] = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> FeatureExtraction:
        """Switch the head; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def frozen_depth(self) -> int:
        """Return the number of all layer groups."""
        return len(self.backbone.layer_groups())

    def extract(self, inputs: Tensor) -> Tensor:
        """Return features without a graph."""
        with torch.no_grad():
            return super().extract(inputs)


class LabelledTarget(FineTuning):
    """Everything learns, from *labelled target* training pictures (the baseline ``oracle``).

    Steps, batches and settings are those of every other model. What learns from the source
    elsewhere learns from the target here, and target validation is scored with its labels.
    """

    learn_from: ClassVar[str] = "target"
