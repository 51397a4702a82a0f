"""Accuracy by domain where source or target consist of several."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from tl_lightning.data.domain import Domain
from tl_lightning.distributed.ranks import gathered
from tl_lightning.tasks.domain_accuracy import domain_accuracies
from tl_lightning.types import DOMAINS, SplitKey

__all__ = ["DomainMetrics"]


class DomainMetrics(L.Callback):
    """Log ``source/val/acc_<domain>``, the mean over the domains and the worst one.

    Only labelled samples count, so that target validation is left out unless the target's labels
    are tracked anyway. The values are exact for any number of ranks: each sample counts once.
    """

    def __init__(self) -> None:
        self.kept: dict[SplitKey, list[tuple[Tensor, Tensor]]] = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect which samples were predicted correctly."""
        self._add(SplitKey(DOMAINS[dataloader_idx], "val"), outputs)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect which samples were predicted correctly."""
        self._add(SplitKey(DOMAINS[dataloader_idx], "test"), outputs)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard what an interrupted validation has collected."""
        self.kept = {}

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard what was collected before."""
        self.kept = {}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the accuracies of validation."""
        pl_module.log_dict(self._values(trainer))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the accuracies of the test."""
        pl_module.log_dict(self._values(trainer))

    def _add(self, key: SplitKey, outputs: Any) -> None:
        if "labels" in outputs:
            labels, logits = outputs["labels"], outputs["logits"]
            known = labels < logits.shape[1]  # unknown classes have a label after the others
            right = (logits.argmax(1) == labels)[known]
            self.kept.setdefault(key, []).append((outputs["index"][known].cpu(), right.cpu()))

    def _values(self, trainer: L.Trainer) -> dict[str, float]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        several = {name: found for name, found in data.found.items() if found.domains}
        kept, self.kept = self.kept, {}
        if not several:
            return {}
        merged: dict[SplitKey, list[tuple[Tensor, Tensor]]] = {}
        for part in gathered(kept):
            for key, batches in part.items():
                merged.setdefault(key, []).extend(batches)
        values: dict[str, float] = {}
        for key, batches in merged.items():
            if key.domain in several:
                found = _accuracies(several[key.domain], key.split, batches)
                values |= {f"{key}/{name}": value for name, value in found.items()}
        return values


def _accuracies(
    domain: Domain, split: str, batches: list[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    members = domain.splits()[split].domains
    if members is None:
        return {}
    index, right = (torch.cat(column).numpy() for column in zip(*batches, strict=True))
    return domain_accuracies(domain.domains, members[index], np.asarray(right))
