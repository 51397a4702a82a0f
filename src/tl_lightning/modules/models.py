"""The three kinds of model; each says only which losses it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tl_lightning.adapters.base import Adapter
from tl_lightning.modules.base import TransferModule
from tl_lightning.types import Batch, Context, Terms

__all__ = ["DomainAdaptation", "FeatureExtraction", "FineTuning"]


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


class DomainAdaptation(TransferModule):
    """Learns from the labelled source and aligns the unlabelled target by its adapters.

    Args:
        adapters: The methods by name; their terms add up. None at all leaves joint batches: batch
            norm sees both domains, and nothing else happens to the target.
        forward: ``joint`` puts both domains through the backbone in one batch (batch norm
            sees both), ``separate`` one after the other.
        kwargs: As in :class:`TransferModule`.
    """

    train_on: ClassVar[tuple[str, ...]] = ("source", "target")

    def __init__(
        self,
        *,
        adapters: dict[str, Adapter],
        forward: Literal["joint", "separate"],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.adapters = nn.ModuleDict(adapters)
        self.forward_mode = forward

    def parameter_groups(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        """Add the adapters' own parameters, at the rate of new layers."""
        own = {name: (list(m.parameters()), 1.0) for name, m in self.adapters.items()}
        return {**super().parameter_groups(), **own}

    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the task's loss on the source and the adapters' terms."""
        views = self.views(batch)
        terms = self.task_terms(views)
        size = len(views["source"].logits)
        for name, adapter in self.adapters.items():
            diagnostics: dict[str, Any] = {}
            ctx = Context(self.progress, self.global_step, diagnostics.__setitem__)
            # After the task, so that random numbers drawn here leave the rest of the step alone.
            terms.update(adapter(views, ctx))
            self._record({f"{name}/{key}": value for key, value in diagnostics.items()}, size)
        return terms
