"""Supervised models: fine-tuning, feature extraction and training on the labelled target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from tl_lightning.config.schema import RunConfig
from tl_lightning.models.base import TransferModule
from tl_lightning.models.optimization import layer_groups_of
from tl_lightning.types import Batch, Terms

__all__ = ["FeatureExtraction", "FineTuning", "LabelledTarget"]


class FineTuning(TransferModule):
    """Trains all layers on the labelled source (also used for the baseline ``source_only``)."""

    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the task's loss on the labelled samples."""
        return self.task_terms(self.views(batch))


class FeatureExtraction(FineTuning):
    """Trains a head on a frozen backbone.

    The backbone stays in evaluation mode (batch norm uses and keeps its stored statistics), builds
    no autograd graph and is in no optimizer group.
    """

    takes_phases: ClassVar[bool] = False

    @classmethod
    def check_run(cls, where: str, params: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
        """Yield settings that would train the backbone."""
        lora = run.nodes.get("backbone.lora")
        if lora is not None and (rank := lora.params.get("rank")):
            yield (
                f"model={run.name} freezes the backbone, but backbone.lora.rank={rank} adds "
                "trainable weights to it; set model=fine_tuning or backbone.lora.rank=0"
            )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> FeatureExtraction:
        """Set the mode of the head; the backbone stays in evaluation mode."""
        self.training = mode
        for name, child in self.named_children():
            # Setting the mode of a large network takes as long as a step on its stored features.
            if name != "backbone":
                child.train(mode)
            elif child.training:
                child.eval()
        return self

    def frozen_depth(self) -> int:
        """Return the number of layer groups, which are all frozen."""
        return len(layer_groups_of(self.backbone))

    def extract(self, inputs: Tensor) -> Tensor:
        """Return features without an autograd graph."""
        with torch.no_grad():
            return super().extract(inputs)


class LabelledTarget(FineTuning):
    """Trains all layers on *labelled target* training samples (the baseline ``oracle``).

    Steps, batches and settings are the same as for the other models, but the target takes the place
    of the source in training, and target validation uses its labels.
    """

    learn_from: ClassVar[str] = "target"
