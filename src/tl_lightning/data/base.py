"""The base of every data module: splits, domains, labels and loaders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from tl_lightning.data.dataset import (
    ArrayDataset,
    Domain,
    EvalDataset,
    FileDataset,
    Split,
    collate,
)
from tl_lightning.data.folder import check_signatures
from tl_lightning.data.pixels import PixelAugment
from tl_lightning.data.sampler import DomainSampler, EvalSampler
from tl_lightning.data.transforms import Augment, resize_pixels, train_transform
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

__all__ = ["TransferData", "spread"]

DOMAINS = ("source", "target")


def spread(size: int, count: int) -> list[int]:
    """Return at most ``count`` places spread evenly over ``size``.

    >>> spread(10, 4), spread(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    places = np.linspace(0, size - 1, min(count, size)).round()
    return [int(place) for place in np.unique(places)]


class TransferData(L.LightningDataModule):
    """Owns what is shown to the model, and what is not.

    A dataset is a subclass with :meth:`domains`; everything else is here. Training and validation
    batches of the target carry no labels at all, so that no loss, metric or checkpoint rule can
    peek; only testing (and ``selection=oracle``, which says so wherever its figure stands) does.

    Args:
        name: The dataset's name in reports.
        batch_size: Samples of each domain a training batch and rank.
        eval_batch_size: Samples a validation or test batch and rank.
        steps_per_epoch: Batches an epoch, or None for one pass over the larger domain.
        num_workers: Loader processes for pictures on disk; pictures in memory need none.
        augment: Of training pictures: ``none``, or for pictures on disk ``light`` or ``standard``,
            or for pictures in memory ``{shift, contrast, invert}`` (:class:`PixelAugment`).
        seed: The run's seed: orders and augmentation, never the splits.
        pin_memory: Whether batches are copied to page-locked memory (for a GPU).
    """

    def __init__(
        self,
        *,
        name: str,
        batch_size: int,
        eval_batch_size: int,
        steps_per_epoch: int | None,
        num_workers: int,
        augment: Augment | Mapping[str, Any],
        seed: int,
        pin_memory: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.steps_per_epoch = steps_per_epoch
        self.num_workers = num_workers
        self.augment = augment
        self.seed = seed
        self.pin_memory = pin_memory
        self.train_on: tuple[str, ...] = DOMAINS
        self.val_labels: tuple[str, ...] = ("source",)
        self.spec: InputSpec | None = None
        self.found: dict[str, Domain] = {}

    #: Which pretraining has seen these pictures, in words; empty if none is known to have.
    overlap: ClassVar[str] = ""

    # -- what a dataset says ---------------------------------------------------------------
    def domains(self) -> Mapping[str, Domain]:
        """Return ``source`` and, unless there is none, ``target``. Reads lists, not pictures."""
        raise NotImplementedError

    # -- what every dataset shares ---------------------------------------------------------
    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the source; labels of every domain index these."""
        return self.found["source"].classes

    def discover(self) -> None:
        """Find the pictures and check that training can start; raises DataError if not."""
        if self.found:
            return
        found = dict(self.domains())
        for fault in self.faults(found):
            raise DataError(fault)
        for role, domain in found.items():
            if not isinstance(domain.train.pictures, np.ndarray):
                own = f"data.{role}.root" if _own_root(self, role) else "data.root"
                check_signatures(domain.paths(), setting=own)
        self.found = found

    def faults(self, found: Mapping[str, Domain]) -> Iterator[str]:
        """Yield what keeps these domains from training: empty or too small splits, settings."""
        for role, domain in found.items():
            in_memory = isinstance(domain.train.pictures, np.ndarray)
            if self.augment != "none" and in_memory == isinstance(self.augment, str):
                kind = "pictures in memory take {shift:1,contrast:0.5,invert:0.5}"
                yield (
                    f"data.augment={self.augment} does not fit {role} ({domain.name}): {kind} or "
                    "none, pictures on disk none, light or standard"
                )
            for split in ("train", "val", "test"):
                if len(getattr(domain, split)) == 0:
                    yield (
                        f"{role} ({domain.name}) has no pictures for {split}; "
                        f"add some, or change data.{role} or data.val_fraction"
                    )
            if len(domain.train) < self.batch_size:
                yield (
                    f"{role} ({domain.name}) has {len(domain.train)} training pictures, fewer than "
                    f"data.batch_size={self.batch_size}; type data.batch_size={len(domain.train)} "
                    "or less"
                )

    def attach(
        self, spec: InputSpec, train_on: tuple[str, ...], val_labels: tuple[str, ...]
    ) -> None:
        """Tell the data what the model needs: the picture's form, domains, labels in validation."""
        self.spec = spec
        self.train_on = train_on
        self.val_labels = val_labels

    @property
    def num_batches(self) -> int:
        """Batches an epoch and rank: the same for every model, so that methods compare."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        world = self.trainer.world_size if self.trainer is not None else 1
        largest = max(len(domain.train) for domain in self.found.values())
        return max(1, largest // (self.batch_size * world))

    @property
    def roles(self) -> list[str]:
        """The domains present, source first."""
        return [role for role in DOMAINS if role in self.found]

    def counts(self) -> dict[str, int]:
        """Return the number of pictures by ``domain/split``."""
        return {
            f"{role}/{split}": len(getattr(self.found[role], split))
            for role in self.roles
            for split in ("train", "val", "test")
        }

    def fingerprint(self) -> str:
        """Return a hash of the names (or pixels) of every picture by domain and split."""
        digest = hashlib.sha256()
        for role in self.roles:
            for name in ("train", "val", "test"):
                split: Split = getattr(self.found[role], name)
                digest.update(f"{role}/{name}/{len(split)}".encode())
                digest.update("\n".join(split.names).encode())
                if isinstance(split.pictures, np.ndarray):
                    digest.update(np.ascontiguousarray(split.pictures).tobytes())
        return digest.hexdigest()

    def setup(self, stage: str) -> None:
        """Find the data (Lightning calls this on every rank)."""
        self.discover()

    # -- loaders -----------------------------------------------------------------------------
    def train_dataloader(self) -> dict[str, DataLoader[Any]]:
        """Return one loader a domain that trains; target batches hold no labels."""
        trainer = self.trainer
        assert trainer is not None
        # Batches done in all epochs so far: a resumed run goes on at exactly this place.
        total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        epoch, start = divmod(total.processed, self.num_batches)
        loaders = {}
        for role in self.train_on:
            split = self.found[role].train
            dataset = self._dataset(split if role == "source" else split.without_labels(), True)
            sampler = DomainSampler(
                size=len(split),
                batch_size=self.batch_size,
                num_batches=self.num_batches,
                seed=self.seed,
                domain=DOMAINS.index(role),
                rank=trainer.global_rank,
                world=trainer.world_size,
                epoch=epoch,
                start=start,
            )
            loaders[role] = self._loader(dataset, self.batch_size, sampler)
        return loaders

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Return the validation loaders, source first; the target's hold no labels."""
        return [
            self._eval_loader(
                self.found[role].val
                if role in self.val_labels
                else self.found[role].val.without_labels()
            )
            for role in self.roles
        ]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Return the test loaders with labels, source first."""
        return [self._eval_loader(self.found[role].test) for role in self.roles]

    def sample_loader(self, role: str, count: int) -> tuple[DataLoader[Any], list[int]]:
        """Return a loader of ``count`` test pictures without labels, spread over the split.

        Every rank gets all of them. Also returns their places in the split.
        """
        places = spread(len(self.found[role].test), count)
        split = self.found[role].test.without_labels().subset(places)
        sampler = EvalSampler(size=len(split))
        dataset = EvalDataset(self._dataset(split, False))
        return self._loader(dataset, self.eval_batch_size, sampler), places

    def _eval_loader(self, split: Split) -> DataLoader[Any]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        sampler = EvalSampler(size=len(split), rank=rank, world=world)
        return self._loader(EvalDataset(self._dataset(split, False)), self.eval_batch_size, sampler)

    def _dataset(self, split: Split, train: bool) -> FileDataset | ArrayDataset:
        assert self.spec is not None, "attach() comes before the loaders"
        if isinstance(split.pictures, np.ndarray):
            pixels = resize_pixels(split.pictures, self.spec)
            fitted = Split(pixels, split.labels, split.names)
            if train and isinstance(self.augment, Mapping):
                return ArrayDataset(fitted, PixelAugment(**self.augment))
            return ArrayDataset(fitted)
        preset = self.augment if train and isinstance(self.augment, str) else "none"
        return FileDataset(split, train_transform(self.spec, preset))

    def _loader(self, dataset: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        inner = dataset.dataset if isinstance(dataset, EvalDataset) else dataset
        workers = 0 if isinstance(inner, ArrayDataset) else self.num_workers
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=self.pin_memory,
            persistent_workers=workers > 0,
        )


def _own_root(data: TransferData, role: str) -> bool:
    node = getattr(data, role, None)
    return isinstance(node, Mapping) and node.get("root") is not None
