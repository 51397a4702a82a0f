"""Test of a model on corrupted versions of its test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from tl_lightning.config.schema import TrainerConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datasets import EvalDataset
from tl_lightning.data.loaders import loader_of
from tl_lightning.data.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from tl_lightning.distributed.ranks import gathered
from tl_lightning.evaluation.outputs import Outputs
from tl_lightning.models.base import TransferModule
from tl_lightning.reporting.statistics import student
from tl_lightning.training.trainer import make_trainer
from tl_lightning.types import DOMAINS, SplitKey
from tl_lightning.utils.signals import signals

__all__ = ["CorruptedDataset", "under_corruptions"]

#: The tested versions of an image.
VERSIONS = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]


class CorruptedDataset(EvalDataset):
    """All corrupted versions of every image, made by the workers from an image decoded once.

    A batch of n images has ``n * len(VERSIONS)`` inputs; input ``k`` of image ``i`` has the index
    ``i * len(VERSIONS) + k``, or -1 if the image is padding.

    Args:
        dataset: Of uint8 images at the model's input size.
        keys: Number of each image, see :func:`.corrupted`.
    """

    def __init__(self, dataset: Any, keys: Sequence[int]) -> None:
        super().__init__(dataset)
        self.keys = keys

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return one batch for the given ``(index, valid)`` pairs."""
        batch = super().__getitems__(keys)
        images: Sequence[Tensor] = batch["inputs"]
        versions = [
            corrupted(image, name, severity, self.keys[index])
            for image, (index, _) in zip(images, keys, strict=True)
            for name, severity in VERSIONS
        ]
        index = batch["index"][:, None] * len(VERSIONS) + torch.arange(len(VERSIONS))
        return {
            "inputs": torch.stack(versions),
            "index": torch.where(batch["index"][:, None] >= 0, index, -1).flatten(),
            "labels": batch["labels"].repeat_interleave(len(VERSIONS)),
        }


class _CorruptedImages(L.LightningDataModule):
    """The corrupted versions of the tested images of each domain.

    Domains are told apart by the position of their loader; only the target, which is the last, may
    have no labels, and is then left out.

    Args:
        data: Prepared for the model.
        tested: Outputs for the labelled images.
    """

    def __init__(self, data: TransferDataModule, tested: Mapping[str, Outputs]) -> None:
        super().__init__()
        self.data = data
        self.tested = tested

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Return the loaders; called when the ranks are known."""
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return [self._loader(name, rank, world) for name in self.tested]

    def _loader(self, name: str, rank: int, world: int) -> DataLoader[Any]:
        data, places = self.data, self.tested[name].index.tolist()
        split = data.found[name].test
        if len(places) < len(split):  # a limit of the trainer
            split = split.subset(places)
        images = CorruptedDataset(data.dataset(name, split, train=False), places)
        sampler = data.eval_sampler(SplitKey(name, "test"), split, rank, world)
        size = max(1, data.eval_batch_size // len(VERSIONS))
        return loader_of(images, size, sampler, data.num_workers, data.pin_memory)


class _HitCollector(L.Callback):
    """Collect by domain which inputs were classified correctly, on all ranks."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Tensor]] = {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the index of each input, and whether it was classified correctly."""
        right = outputs["logits"].argmax(1) == outputs["labels"]
        rows = torch.stack([outputs["index"], right.long()], 1)
        self.rows.setdefault(DOMAINS[dataloader_idx], []).append(rows.cpu())

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the results of all ranks."""
        parts = gathered(self.rows)
        self.rows = {name: [r for part in parts for r in part[name]] for name in self.rows}

    def hits(self, domain: str, samples: int) -> NDArray[np.bool_]:
        """Return ``(samples, len(VERSIONS))`` whether each version was classified correctly."""
        index, right = torch.cat(self.rows[domain]).unbind(1)
        found = torch.empty(samples * len(VERSIONS), dtype=torch.bool)
        found[index] = right.bool()
        hits: NDArray[np.bool_] = found.view(samples, len(VERSIONS)).numpy()
        return hits


def under_corruptions(
    module: TransferModule,
    data: TransferDataModule,
    trainer: TrainerConfig,
    outputs: Mapping[str, Outputs],
) -> dict[str, dict[str, Any]]:
    """Test a model on the corrupted versions of the labelled samples that it was tested on.

    Args:
        module: The model.
        data: Images, prepared for the model.
        trainer: Configuration of the trainer; its limits do not count.
        outputs: Of the test on the images as they are.

    Returns:
        By domain, see :func:`summarised`.
    """
    tested = {name: found for name, found in outputs.items() if found.labels is not None}
    tester = make_trainer(
        trainer, logger=False, enable_checkpointing=False, limit_test_batches=None
    )
    tester.callbacks.append(collector := _HitCollector())  # type: ignore[attr-defined]
    with signals.watched():
        tester.test(module, datamodule=_CorruptedImages(data, tested), verbose=False)
    return {
        name: summarised(
            collector.hits(name, len(found.index)),
            float((found.logits.argmax(1) == found.labels).mean()),
        )
        for name, found in tested.items()
    }


def summarised(hits: NDArray[np.bool_], clean: float) -> dict[str, Any]:
    """Return the accuracy by corruption and severity, and the mean corruption error.

    Args:
        hits: ``(n, len(VERSIONS))`` whether each version of each image was classified correctly.
        clean: Accuracy on the images as they are.

    Returns:
        ``clean``; ``accuracy`` by corruption, a list over the severities; ``error``, the mean of
        the error over all corruptions and severities, with its interval over images, ``low`` and
        ``high``; ``drop``, by how much it exceeds the error on the images as they are.
    """
    accuracy = hits.mean(0).reshape(len(CORRUPTIONS), len(SEVERITIES))
    found = student((1 - hits.mean(1)).tolist())
    return {
        "clean": clean,
        "accuracy": dict(zip(CORRUPTIONS, accuracy.tolist(), strict=True)),
        "error": found.mean,
        "low": None if found.low is None else max(0.0, found.low),
        "high": None if found.high is None else min(1.0, found.high),
        "drop": found.mean - (1 - clean),
    }
