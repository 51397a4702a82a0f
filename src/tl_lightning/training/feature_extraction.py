"""Computation of the features of a frozen network with the run's own trainer."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tl_lightning.backbones.fusion import fused
from tl_lightning.data.cache.features import FILES, FeatureSet, ShardWriter, ViewSampler
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.domain import Split
from tl_lightning.models.base import TransferModule
from tl_lightning.training.feature_plan import Plan, through
from tl_lightning.types import InputSpec, SplitKey, Stream
from tl_lightning.utils.files import locked
from tl_lightning.utils.owned import remove_owned
from tl_lightning.utils.progress import advancing

__all__ = ["Batches", "batch_of", "fill"]

#: Batch size of the extraction.
BATCH = 64


def fill(
    chosen: Plan, module: TransferModule, data: TransferDataModule, trainer: L.Trainer
) -> dict[str, dict[str, float]]:
    """Compute the missing features with the run's own trainer, and attach them to the data.

    Returns:
        For each split: rows from the cache, rows computed now, and the seconds it took.
    """
    if chosen.mode == "off":
        return {}
    assert chosen.sets is not None
    runner = Extraction(chosen, module, data)
    # With several ranks, the decision is left to setup, once they are connected: one rank may find
    # features that another does not.
    if trainer.world_size > 1 or any(s.found() is None for s in chosen.sets.values()):
        bar: Any = trainer.progress_bar_callback
        if bar is not None:
            bar.disable()  # the extraction shows its own
        fast = _fused(chosen, module, trainer)
        try:
            with torch.random.fork_rng(), fast:
                trainer.predict(runner, return_predictions=False)
        finally:
            runner.release()
            if bar is not None:
                bar.enable()
    module.remaining_layers = chosen.remaining_layers
    report = {}
    for key, each in chosen.sets.items():
        found = each.found()
        if found is None:
            raise RuntimeError(f"the features of {key} were written but cannot be read back")
        data.features[key] = found
        rows, now = each.number * each.views, key in runner.seconds
        report[str(key)] = {
            "cached": 0 if now else rows,
            "computed": rows if now else 0,
            "seconds": runner.seconds.get(key, 0.0),
        }
    return report


def _fused(chosen: Plan, module: TransferModule, trainer: L.Trainer) -> Any:
    """Return the context in which features are computed.

    Not for a prefix, whose groups may hold single layers of the network, nor if the trainer stores
    the weights in 16 bits: it would not convert the layers that are put back.
    """
    spec = module.input_spec
    if chosen.groups or "16-true" in str(trainer.precision) or not isinstance(spec, InputSpec):
        return contextlib.nullcontext()
    weight = next(module.backbone.parameters(), torch.zeros(1))
    example = torch.rand(2, 3, spec.size, spec.size).to(weight)
    return fused(module.backbone, example.contiguous(memory_format=module.layout))


def batch_of(data: TransferDataModule, key: SplitKey, split: Split) -> dict[str, Any]:
    """Return all samples of a split, which should be few, as one batch; not augmented."""
    sampler = ViewSampler(names=split.names, views=1, rank=0, world=1)
    found: dict[str, Any] = next(iter(data.image_loader(key, split, len(split), sampler, False, 0)))
    return found


class Batches:
    """Wrapper that keeps Lightning from rebuilding the data loader with its own sampler."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


class Extraction(L.LightningModule):
    """Run the frozen part over every split that is not stored yet; each rank writes one shard.

    Args:
        chosen: The features to compute.
        module: The model; as a submodule, it is moved to the device.
        data: The data module with the images.
    """

    def __init__(self, chosen: Plan, module: TransferModule, data: TransferDataModule) -> None:
        super().__init__()
        self.plan = chosen
        self.module = module
        self.data = data
        self.seconds: dict[SplitKey, float] = {}
        self.drafts: dict[SplitKey, str] = {}
        self.open = contextlib.ExitStack()

    def setup(self, stage: str) -> None:
        """Find the missing features on rank 0, and lock them against other processes."""
        drafts = self._begin() if self.trainer.is_global_zero else {}
        self.drafts = self.trainer.strategy.broadcast(drafts)
        self.seconds = dict.fromkeys(self.drafts, 0.0)
        rank = self.trainer.global_rank
        self.writers = [ShardWriter(Path(draft), rank) for draft in self.drafts.values()]

    def _begin(self) -> dict[SplitKey, str]:
        """Lock the missing sets, in the same order in all processes, and create draft folders."""
        drafts: dict[SplitKey, str] = {}
        started: set[Path] = set()
        sets = self.plan.sets or {}
        for key in sorted(sets, key=lambda key: sets[key].folder):
            folder = sets[key].folder
            if sets[key].found() is not None or folder in started:
                continue
            self.open.enter_context(locked(folder))
            if sets[key].found() is None:  # another process may have written it in the meantime
                draft = sets[key].begin()
                self.open.callback(remove_owned, draft, FILES)
                started.add(folder)
                drafts[key] = str(draft)
        return drafts

    def predict_dataloader(self) -> list[Batches]:
        """Return one loader per missing split, with the samples of this rank."""
        return [Batches(self._loader(key)) for key in self.drafts]

    def _loader(self, key: SplitKey) -> Any:
        each = (self.plan.sets or {})[key]
        split = self._split(key)
        ranks = {"rank": self.trainer.global_rank, "world": self.trainer.world_size}
        sampler = ViewSampler(names=split.names, views=each.views, **ranks)
        augmented = self.plan.views is not None and key.split in ("train", "labelled")
        # On few CPU cores, the network would compete with the workers that decode its images.
        cores, workers = os.cpu_count() or 1, self.data.num_workers
        in_process = self.trainer.strategy.root_device.type == "cpu" and cores < 4 * workers
        return self.data.image_loader(
            key, split.without_labels(), BATCH, sampler, augmented, 0 if in_process else workers
        )

    def _split(self, key: SplitKey) -> Split:
        return (self.plan.splits or self.data.stored_splits())[key]

    def on_predict_start(self) -> None:
        """Show a progress bar on rank 0."""
        rows = [each.number * each.views for each in self._missing()]
        self.advance = (
            self.open.enter_context(
                advancing(f"features of {sum(rows):,} {self.data.gives}", sum(rows))
            )
            if self.trainer.is_global_zero
            else lambda done: None
        )
        self.last = time.monotonic()

    def _missing(self) -> list[FeatureSet]:
        return [(self.plan.sets or {})[key] for key in self.drafts]

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Store the features of one batch; return their number."""
        images = batch["inputs"]
        key = list(self.drafts)[dataloader_idx]
        stream = Stream(key.domain)
        self.module.set_batch_domains({stream: len(images)}, {stream: self._named(key, batch)})
        if "seeds" in batch:  # only batches of images have seeds
            assert isinstance(self.data, ImageDataModule)
            images = self.data.augmentation.finish(images, batch["seeds"])
        if self.plan.groups:
            found = through(self.plan.groups, self.module.normalise(images))
        else:
            found = self.module.extract(images)
        self.writers[dataloader_idx].add(found)
        self.advance(len(found) * self.trainer.world_size)
        now = time.monotonic()
        self.seconds[key] += now - self.last
        self.last = now
        return torch.tensor(len(found))

    def _named(self, key: SplitKey, batch: Any) -> Tensor | None:
        """Return the index of each sample's named domain ``(B,)``, if there are several."""
        domains = self._split(key).domains
        return None if domains is None else torch.from_numpy(domains[batch["index"].cpu().numpy()])

    def on_predict_end(self) -> None:
        """Rename the finished features into place once every rank has written its part."""
        for writer in self.writers:
            writer.flush()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            for each, draft in zip(self._missing(), self.drafts.values(), strict=True):
                each.finish(Path(draft))
        self.trainer.strategy.barrier()

    def release(self) -> None:
        """Release the locks and remove unfinished drafts."""
        self.open.close()
