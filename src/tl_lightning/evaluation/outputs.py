"""The outputs of a model for all tested samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.distributed.ranks import gathered
from tl_lightning.errors import DataError
from tl_lightning.types import DOMAINS
from tl_lightning.utils.text import shorten

__all__ = ["OutputCollector", "Outputs"]


@dataclass(frozen=True)
class Outputs:
    """What a model returned for the tested samples of a domain, in the order of the test split.

    Attributes:
        index: ``(n,)`` indices in the test split; not all of them with a limit of the trainer.
        logits: ``(n, K)`` float32.
        labels: ``(n,)`` class indices, or None without labels.
        files: Paths of the samples, or their names if they are not in files.
        rejected: ``(n,)`` whether they are taken for none of the classes; None if none can be.
    """

    index: NDArray[np.int64]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    files: Sequence[str]
    rejected: NDArray[np.bool_] | None = None

    def of_classes(self) -> Outputs:
        """Return the outputs for samples of the model's classes, without those of unknown ones."""
        if self.labels is None or (known := self.labels < self.logits.shape[1]).all():
            return self
        files = [file for file, kept in zip(self.files, known, strict=True) if kept]
        return Outputs(self.index[known], self.logits[known], self.labels[known], files)


class OutputCollector(L.Callback):
    """Collect the logits and labels of a test, of all ranks."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]] = {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the outputs of the batch, which has no padding any more."""
        found = [outputs.get(name) for name in ("labels", "rejected")]
        labels, rejected = (part if part is None else part.cpu() for part in found)
        row = (outputs["index"].cpu(), outputs["logits"].cpu(), labels, rejected)
        self.rows.setdefault(DOMAINS[dataloader_idx], []).append(row)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the outputs of all ranks."""
        parts = gathered(self.rows)
        names = dict.fromkeys(name for part in parts for name in part)
        self.rows = {name: [row for part in parts for row in part.get(name, ())] for name in names}

    def outputs(self, data: TransferDataModule) -> dict[str, Outputs]:
        """Return the outputs by domain.

        Args:
            data: The data module that was tested.

        Raises:
            DataError: If an output is not finite.
        """
        return {name: _joined(name, rows, data) for name, rows in self.rows.items()}


def _joined(name: str, rows: Sequence[Any], data: TransferDataModule) -> Outputs:
    index, logits = (torch.cat([row[part] for row in rows]).numpy() for part in (0, 1))
    order = np.unique(index, return_index=True)[1]
    split = data.found[name].test
    files = [str(split.files[place]) for place in index[order]]
    finite = np.isfinite(logits[order]).all(1)
    if not finite.all():
        listed = [file for file, known in zip(files, finite, strict=True) if not known]
        raise DataError(
            f"the outputs of the model are not finite for {len(listed):,} of {len(files):,} test "
            f"samples of the {name} ({shorten(listed, 3)}), so that nothing can be measured; test "
            "another checkpoint, or set trainer.precision=32-true"
        )
    labels, rejected = (
        None if rows[0][part] is None else torch.cat([row[part] for row in rows]).numpy()[order]
        for part in (2, 3)
    )
    return Outputs(index[order], logits[order], labels, files, rejected)
