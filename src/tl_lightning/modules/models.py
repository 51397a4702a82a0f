"""The three kinds of model; each says only which losses it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tl_lightning.adapters.base import Adapter
from tl_lightning.modules.base import TransferModule
from tl_lightning.types import Batch, Context, Terms, View

__all__ = ["DomainAdaptation", "FeatureExtraction", "FineTuning"]


class FineTuning(TransferModule):
    """Everything learns, from the labelled source alone (also the baseline ``source_only``)."""

    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the task's loss on the source."""
        source = batch["source"]
        _, logits = self.task(self.extract(source["inputs"]))
        return {"task": self.task.loss(logits, source["labels"])}


class FeatureExtraction(FineTuning):
    """A frozen backbone and a head that learns.

    Frozen means frozen: the backbone is in evaluation mode (batch norm normalises by its stored
    statistics, which do not move), builds no graph, and is in no optimizer group.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> FeatureExtraction:
        """Switch the head; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

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

    def views(self, batch: dict[str, Batch]) -> dict[str, View]:
        """Return what the adapters see of the step: features and logits of each domain."""
        pictures = [batch[role]["inputs"] for role in self.train_on]
        if self.forward_mode == "joint":
            features, logits = self.task(self.extract(torch.cat(pictures)))
            sizes = [len(part) for part in pictures]
            parts = list(zip(features.split(sizes), logits.split(sizes), strict=True))
        else:
            parts = [self.task(self.extract(part)) for part in pictures]
        return {
            role: View(*part, labels=batch[role].get("labels"))
            for role, part in zip(self.train_on, parts, strict=True)
        }

    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the task's loss on the source and the adapters' terms."""
        views = self.views(batch)
        labels = views["source"].labels
        assert labels is not None
        terms = {"task": self.task.loss(views["source"].logits, labels)}
        size = len(labels)
        for name, adapter in self.adapters.items():
            diagnostics: dict[str, Any] = {}
            ctx = Context(self.progress, self.global_step, diagnostics.__setitem__)
            # After the task, so that random numbers drawn here leave the rest of the step alone.
            terms.update(adapter(views, ctx))
            self._record({f"{name}/{key}": value for key, value in diagnostics.items()}, size)
        return terms
