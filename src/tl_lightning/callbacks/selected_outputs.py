"""Outputs of the selected model on the test samples and on source validation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.checkpoints.io import read_model
from tl_lightning.checkpoints.warm_start import checkpoint_of
from tl_lightning.distributed.ranks import gathered
from tl_lightning.models.base import TransferModule
from tl_lightning.reliability.accuracy import trains_on_target
from tl_lightning.types import DOMAINS
from tl_lightning.utils.spread import spread

__all__ = ["FEATURES", "LARGEST", "SelectedOutputs"]

#: Largest number of values of an array of logits, and of samples whose features are kept.
LARGEST, FEATURES = 4_000_000, 2_000
Columns = tuple[Tensor, ...]


class SelectedOutputs(L.Callback):
    """Collect logits of the test samples and, if wanted, outputs of the source validation split.

    Both are of the tested model, and complete on rank 0 after the test. Of a large split, samples
    spread evenly are kept: the same for any number of ranks.

    Args:
        validation: Whether to pass the source validation split through the tested model as well;
            ``trainer.limit_val_batches`` holds.
        start: Checkpoints or run folders that the model starts from.
    """

    def __init__(self, *, validation: bool, start: Sequence[Path] = ()) -> None:
        self.validation = validation
        self.start = start
        #: Whether a model that it starts from was trained on target samples; None: not known yet.
        self.starts_adapted: bool | None = None
        self.wanted: dict[str, Tensor] = {}
        self.parts: dict[str, list[Columns]] = {}
        #: Index and logits by domain; of ``source_val`` also labels, of ``source_val_features``
        #: features and labels.
        self.kept: dict[str, Columns] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return whether the run started from an adapted model, for a resumed run."""
        return {"starts_adapted": self.starts_adapted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what the run started from."""
        self.starts_adapted = state_dict["starts_adapted"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read from the checkpoints that the model starts from whether they were adapted."""
        if self.starts_adapted is None and trainer.is_global_zero:
            self.starts_adapted = any(_adapted(path) for path in self.start)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the test samples whose logits are kept."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, TransferModule)
        rows = max(1, LARGEST // len(pl_module.classes))
        sizes = {name: len(data.found[name].test) for name in data.domain_names}
        if self.validation:
            sizes["source_val"] = len(data.found["source"].val)
        self.wanted = {name: torch.tensor(spread(size, rows)) for name, size in sizes.items()}
        if self.validation:
            chosen = self.wanted["source_val"]
            self.wanted["source_val_features"] = chosen[spread(len(chosen), FEATURES)]
        self.parts, self.kept = {name: [] for name in self.wanted}, {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the logits of a batch."""
        self._add(DOMAINS[dataloader_idx], outputs["index"], outputs["logits"])

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pass the source validation split through the model, and merge the ranks' outputs."""
        assert isinstance(pl_module, TransferModule)
        if self.validation:
            self._validate(trainer, pl_module)
        merged = gathered(self.parts)
        for name in self.parts if trainer.is_global_zero else ():
            batches = [columns for parts in merged for columns in parts[name]]
            columns = [torch.cat(column) for column in zip(*batches, strict=True)]
            if columns and len(columns[0]):
                order = columns[0].argsort()
                self.kept[name] = tuple(column[order] for column in columns)
        self.parts = {}

    def _validate(self, trainer: L.Trainer, module: TransferModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        with torch.random.fork_rng(devices=[]), trainer.precision_plugin.test_step_context():
            loader = data.val_dataloader()[0]
            limit = trainer.limit_val_batches
            batches = limit if isinstance(limit, int) else int(limit * len(loader))
            for number, batch in enumerate(islice(loader, batches)):
                batch = trainer.strategy.batch_to_device(batch)
                found = module.validation_step(batch, number)
                labels = found["labels"]
                self._add("source_val", found["index"], found["logits"], labels)
                self._add("source_val_features", found["index"], found["features"], labels)

    def _add(self, name: str, index: Tensor, *columns: Tensor) -> None:
        """Keep the rows that are wanted; features of all rows would take too much memory."""
        index = index.cpu()
        chosen = torch.isin(index, self.wanted[name])
        kept = [_half(one) if one.is_floating_point() else one for one in columns]
        self.parts[name].append((index[chosen], *(one.cpu()[chosen] for one in kept)))

    def arrays(self, tested: Mapping[str, Collection[int]]) -> dict[str, NDArray[Any]]:
        """Return the arrays of ``predictions.npz``.

        ``{domain}_logits`` (N, K) float16; ``{domain}_logits_row`` (N,) their rows among the tested
        samples, if not all have logits; ``source_val_logits`` and ``source_val_true``.

        Args:
            tested: Indices of all tested samples by domain.
        """
        found: dict[str, NDArray[Any]] = {}
        for name, (index, logits, *others) in self.kept.items():
            if name == "source_val_features":
                continue
            found[f"{name}_logits"] = logits.numpy()
            if others:
                found[f"{name}_true"] = others[0].numpy()
            elif len(index) < len(tested[name]):
                found[f"{name}_logits_row"] = np.searchsorted(sorted(tested[name]), index.numpy())
        return found

    def record(self) -> dict[str, Tensor]:
        """Return logits, labels, features and their labels of source validation; may be empty.

        Features are those of at most :data:`FEATURES` samples, spread evenly over the split.
        """
        if not {"source_val", "source_val_features"} <= self.kept.keys():
            return {}
        _, logits, labels = self.kept["source_val"]
        _, features, feature_labels = self.kept["source_val_features"]
        return {
            "logits": logits, "labels": labels,
            "features": features, "feature_labels": feature_labels,
        }  # fmt: skip

    def recorded(self) -> list[int]:
        """Return the places in the split of the samples whose features are in the record."""
        kept = self.kept.get("source_val_features")
        found: list[int] = [] if kept is None else kept[0].tolist()
        return found


def _adapted(path: Path) -> bool:
    """Return whether the model of a checkpoint or run was trained on target samples."""
    stored = read_model(checkpoint_of(path))
    methods = stored.config.get("method") or {}
    return bool(stored.reliability.get("adapted")) or trains_on_target(methods)


def _half(values: Tensor) -> Tensor:
    """Return values as float16, large ones as the largest of float16; others are not changed."""
    largest = torch.finfo(torch.float16).max
    finite = torch.where(values.isfinite(), values.clamp(-largest, largest), values)
    return finite.half()
