"""The run that computes the features of a frozen network, with the run's own trainer."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tl_lightning.data.cache.features import FeatureSet, ShardWriter, ViewSampler
from tl_lightning.data.datamodules.base import TransferData
from tl_lightning.data.datamodules.image import PictureData
from tl_lightning.models.base import TransferModule
from tl_lightning.training.feature_plan import Plan, through
from tl_lightning.utils.files import locked
from tl_lightning.utils.progress import advancing

__all__ = ["fill"]

#: Pictures that pass the network at a time.
BATCH = 64


def fill(
    chosen: Plan, module: TransferModule, data: TransferData, trainer: L.Trainer
) -> dict[str, dict[str, float]]:
    """Compute what is missing with the run's own trainer, and let the data show what is stored.

    Returns:
        By ``role/split``: rows from the cache, rows computed now, and seconds that took.
    """
    if chosen.mode == "off":
        return {}
    assert chosen.sets is not None
    runner = Extraction(chosen, module, data)
    # Ranks decide together, once they are connected: one of them may find what another does not.
    if trainer.world_size > 1 or any(s.found() is None for s in chosen.sets.values()):
        bar: Any = trainer.progress_bar_callback
        if bar is not None:
            bar.disable()  # ours is shown
        try:
            with torch.random.fork_rng():
                trainer.predict(runner, return_predictions=False)
        finally:
            runner.release()
            if bar is not None:
                bar.enable()
    module.rest = chosen.rest
    report = {}
    for key, each in chosen.sets.items():
        found = each.found()
        if found is None:
            raise RuntimeError(f"the features of {key} were written but cannot be read")
        data.features[key] = found
        rows, now = each.number * each.views, key in runner.seconds
        report[key] = {
            "cached": 0 if now else rows,
            "computed": rows if now else 0,
            "seconds": runner.seconds.get(key, 0.0),
        }
    return report


class _Batches:
    """A loader that Lightning leaves as it is: it would make its own of a DataLoader."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


class Extraction(L.LightningModule):
    """Runs the frozen part over every split that is not stored yet; every rank writes its share.

    Args:
        chosen: What to compute.
        module: The model; it goes to the device with this one.
        data: Whose pictures.
    """

    def __init__(self, chosen: Plan, module: TransferModule, data: TransferData) -> None:
        super().__init__()
        self.plan = chosen
        self.module = module
        self.data = data
        self.seconds: dict[str, float] = {}
        self.drafts: dict[str, str] = {}
        self.open = contextlib.ExitStack()

    def setup(self, stage: str) -> None:
        """Let the first rank find out what is missing, keeping other processes from it."""
        mine = self._begin() if self.trainer.is_global_zero else {}
        self.drafts = self.trainer.strategy.broadcast(mine)
        self.seconds = dict.fromkeys(self.drafts, 0.0)
        rank = self.trainer.global_rank
        self.writers = [ShardWriter(Path(draft), rank) for draft in self.drafts.values()]

    def _begin(self) -> dict[str, str]:
        """Lock what is missing, in one order for all processes, and make the folders."""
        drafts: dict[str, str] = {}
        taken: dict[Path, str] = {}
        sets = self.plan.sets or {}
        for key in sorted(sets, key=lambda key: sets[key].folder):
            folder = sets[key].folder
            if sets[key].found() is not None or folder in taken:
                continue
            self.open.enter_context(locked(folder))
            if sets[key].found() is None:  # nor has another process built it meanwhile
                draft = sets[key].begin()
                self.open.callback(shutil.rmtree, draft, ignore_errors=True)
                taken[folder] = drafts[key] = str(draft)
        return drafts

    def predict_dataloader(self) -> list[_Batches]:
        """Return one loader a missing split, each with this rank's share."""
        return [_Batches(self._loader(key)) for key in self.drafts]

    def _loader(self, key: str) -> Any:
        each, role = (self.plan.sets or {})[key], key.partition("/")[0]
        split = self.data.stored_splits()[key]
        place = {"rank": self.trainer.global_rank, "world": self.trainer.world_size}
        sampler = ViewSampler(names=split.names, views=each.views, **place)
        augmented = self.plan.views is not None and key.endswith("/train")
        # A network on few cores only takes turns with processes that decode pictures for it.
        cores, workers = os.cpu_count() or 1, self.data.num_workers
        alone = self.trainer.strategy.root_device.type == "cpu" and cores < 4 * workers
        return self.data.picture_loader(
            role, split.without_labels(), BATCH, sampler, augmented, 0 if alone else workers
        )

    def on_predict_start(self) -> None:
        """Show how far it is."""
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
        """Store one batch's features; return how many."""
        pictures = batch["inputs"]
        if "seeds" in batch:  # batches of pictures alone have them
            assert isinstance(self.data, PictureData)
            pictures = self.data.changes.finish(pictures, batch["seeds"])
        if self.plan.groups:
            found = through(self.plan.groups, self.module.normalise(pictures))
        else:
            found = self.module.extract(pictures)
        self.writers[dataloader_idx].add(found)
        self.advance(len(found) * self.trainer.world_size)
        now = time.monotonic()
        self.seconds[list(self.drafts)[dataloader_idx]] += now - self.last
        self.last = now
        return torch.tensor(len(found))

    def on_predict_end(self) -> None:
        """Give what all ranks have written its name."""
        for writer in self.writers:
            writer.flush()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            for each, draft in zip(self._missing(), self.drafts.values(), strict=True):
                each.finish(Path(draft))
        self.trainer.strategy.barrier()

    def release(self) -> None:
        """Let other processes in; what is not finished is removed."""
        self.open.close()
