"""The base of every data module: splits, domains, labels and loaders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from tl_lightning.data.augment import Augment, Centre, augmentation
from tl_lightning.data.cache import CacheSettings, PictureCache, worth_it
from tl_lightning.data.dataset import ArrayDataset, Domain, EvalDataset, PictureDataset, Split
from tl_lightning.data.decode import build_cache
from tl_lightning.data.facts import DOMAINS, Facts
from tl_lightning.data.features import FeatureLoader, Features
from tl_lightning.data.looks import Looks
from tl_lightning.data.mixing import Mixing
from tl_lightning.data.reading import shorter_side
from tl_lightning.data.sampler import DomainSampler, EvalSampler
from tl_lightning.data.seeds import mix as mix_seeds
from tl_lightning.data.serve import dataset_of, loader_of
from tl_lightning.data.strong import StrongView
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

__all__ = ["TransferData"]

#: Samples of an evaluation batch of ready features.
EVAL_FEATURES = 2048
#: Every stream of training batches; its number goes into its samples' seeds.
STREAMS = (*DOMAINS, "target_labelled")


class TransferData(Facts, Looks, L.LightningDataModule):
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
        augment: Of training pictures: a name, see :func:`augmentation`, or for small pictures
            ``{shift, contrast, invert}``, see :class:`PixelAugment`.
        mix: ``{mixup: alpha}``, ``{cutmix: alpha}`` or both, for the source, see
            :class:`Mixing`.
        seed: The run's seed: orders and augmentation, never the splits.
        pin_memory: Whether batches are copied to page-locked memory (for a GPU).
    """

    #: Whether what is computed of its pictures can be kept by their places in a split.
    storable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        name: str,
        batch_size: int,
        eval_batch_size: int,
        steps_per_epoch: int | None,
        num_workers: int,
        augment: Augment | Mapping[str, Any],
        mix: Mapping[str, Any],
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
        self.mix = mix
        self.seed = seed
        self.pin_memory = pin_memory
        self.train_on: tuple[str, ...] = DOMAINS
        self.val_labels: tuple[str, ...] = ("source",)
        #: Whose labelled training pictures the source's stream shows.
        self.learn_from = "source"
        self.spec: InputSpec | None = None
        self.found: dict[str, Domain] = {}
        self.caches: dict[str, PictureCache] = {}
        #: Of a frozen network, by ``role/split``; shown instead of the pictures.
        self.features: dict[str, Features] = {}
        #: Pictures left out because they cannot be read: a sentence each, by domain.
        self.quarantined: dict[str, list[str]] = {}

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
        for screen in (lambda domains: domains, self.screened):
            found = screen(found)
            for fault in self.faults(found):
                raise DataError(fault)
        self.found = found

    def screened(self, found: dict[str, Domain]) -> dict[str, Domain]:
        """Return the domains without what cannot be read, or refuse them."""
        return found

    def faults(self, found: Mapping[str, Domain]) -> Iterator[str]:
        """Yield what keeps these domains from training: empty or too small splits, settings."""
        yield from self.oracle_faults(found)
        for role, domain in found.items():
            for split in ("train", "val", "test"):
                if len(getattr(domain, split)) == 0:
                    yield (
                        f"{role} ({domain.name}) has no pictures for {split}; "
                        f"add some, or change data.{role} or data.val_fraction"
                    )
            if 0 < len(domain.train) < self.batch_size:
                yield (
                    f"{role} ({domain.name}) has {len(domain.train)} training pictures, fewer than "
                    f"data.batch_size={self.batch_size}; type data.batch_size={len(domain.train)} "
                    "or less"
                )

    def attach(
        self,
        spec: InputSpec,
        train_on: tuple[str, ...],
        val_labels: tuple[str, ...],
        strong: bool = False,
    ) -> None:
        """Tell the data what the model needs: the picture's form, domains, labels in validation.

        Args:
            spec: The picture's form.
            train_on: Domains that train.
            val_labels: Domains whose validation batches hold labels.
            strong: Whether the target's training pictures are also wanted strongly changed.
        """
        self.spec = spec
        self.strong = StrongView(spec) if strong else None
        self.changes = augmentation(spec, self.augment)
        self.mixing = Mixing(self.mix, len(self.classes))
        self.train_on = train_on
        self.val_labels = val_labels

    def cache(self, settings: CacheSettings, epochs: int) -> None:
        """Decode the pictures on disk once, or find them decoded; ``epochs`` will train.

        Raises:
            DataError: If a picture cannot be read or the disk cannot hold them.
        """
        assert self.spec is not None, "attach() comes before the cache"
        on_disk = {
            role: domain
            for role, domain in self.found.items()
            if not isinstance(domain.train.pictures, np.ndarray)
        }
        paths = [path for domain in on_disk.values() for path in domain.paths()]
        shorter = settings.shorter or shorter_side(self.spec)
        if paths and worth_it(paths, shorter, settings, epochs):
            for role, domain in on_disk.items():
                name = f"{self.name}-{domain.name}"
                self.caches[role] = build_cache(domain.whole(), name, shorter, self.spec, settings)

    def browse(self) -> None:
        """Raise DataError if the pictures cannot be looked at one by one."""

    @property
    def num_batches(self) -> int:
        """Batches an epoch and rank: the same for every model, so that methods compare."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        world = self.trainer.world_size if self.trainer is not None else 1
        largest = max(len(domain.train) for domain in self.found.values())
        return max(1, largest // (self.batch_size * world))

    def setup(self, stage: str) -> None:
        """Find the data (Lightning calls this on every rank)."""
        self.discover()

    # -- loaders -----------------------------------------------------------------------------
    def train_dataloader(self) -> dict[str, DataLoader[Any] | FeatureLoader]:
        """Return one loader a domain that trains; target batches hold no labels."""
        trainer = self.trainer
        assert trainer is not None
        # Batches done in all epochs so far: a resumed run goes on at exactly this place.
        total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        epoch, start = divmod(total.processed, self.num_batches)
        loaders: dict[str, DataLoader[Any] | FeatureLoader] = {}
        for role, split in self.training_splits().items():
            sampler = self._sampler(
                split,
                batch_size=self.batch_size,
                num_batches=self.num_batches,
                seed=self.seed,
                domain=STREAMS.index(role),
                rank=trainer.global_rank,
                world=trainer.world_size,
                epoch=epoch,
                start=start,
            )
            domain = self.domain_of(role)
            features = self.features.get(f"{domain}/train")
            if features is not None:
                loaders[role] = FeatureLoader(
                    features, split.labels, self.batch_size, sampler, split.others
                )
                continue
            dataset = self._dataset(domain, split, train=True)
            loaders[role] = self._loader(dataset, self.batch_size, sampler)
        return loaders

    def _sampler(self, split: Split, **place: Any) -> DomainSampler:
        return DomainSampler(size=len(split), **place)

    def training_splits(self) -> dict[str, Split]:
        """Return what trains: the source, the target without labels, its few labelled pictures."""
        splits = {"source": self.found[self.learn_from].train} if "source" in self.train_on else {}
        if "target" in self.train_on:
            splits["target"] = self.found["target"].train.without_labels()
        labelled = self.found["target"].labelled if "target" in self.found else None
        return splits if labelled is None else {**splits, "target_labelled": labelled}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish the augmentation of training batches where they are, on the device."""
        for role, part in batch.items() if "inputs" not in batch else ():
            self._finish(role, part)
        return batch

    def _finish(self, role: str, batch: Any) -> None:
        seeds = batch.pop("seeds", None)
        if seeds is not None:
            batch["inputs"] = self.changes.finish(batch["inputs"], seeds)
            if self.mixing and role == "source":
                batch["inputs"], batch["labels"] = self.mixing(
                    batch["inputs"], batch["labels"], mix_seeds(*seeds)
                )
            if self.strong is not None and role == "target":
                batch["strong"] = self.strong(batch["inputs"], seeds)

    def val_dataloader(self) -> list[DataLoader[Any] | FeatureLoader]:
        """Return the validation loaders, source first; the target's hold no labels."""
        return [
            self._eval_loader(
                f"{role}/val",
                self.found[role].val
                if role in self.val_labels
                else self.found[role].val.without_labels(),
            )
            for role in self.roles
        ]

    def test_dataloader(self) -> list[DataLoader[Any] | FeatureLoader]:
        """Return the test loaders with labels, source first."""
        return [self._eval_loader(f"{role}/test", self.found[role].test) for role in self.roles]

    def _eval_loader(self, name: str, split: Split) -> DataLoader[Any] | FeatureLoader:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        sampler = EvalSampler(size=len(split), rank=rank, world=world)
        if name in self.features:
            stored = self.features[name]
            # Ready features of many pictures pass the head as quickly as those of a few.
            many = EVAL_FEATURES if stored.flat else self.eval_batch_size
            size = max(many, self.eval_batch_size)
            return FeatureLoader(stored, split.labels, size, sampler, split.others)
        dataset = EvalDataset(self._dataset(name.partition("/")[0], split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler)

    def _dataset(self, role: str, split: Split, train: bool) -> PictureDataset | ArrayDataset:
        assert self.spec is not None, "attach() comes before the loaders"
        cache = self.caches.get(role.removesuffix("_labelled"))
        if not train:
            return dataset_of(split, self.spec, Centre(self.spec), cache)
        return dataset_of(split, self.spec, self.changes.geometry, cache, self.seeded)

    @property
    def seeded(self) -> bool:
        """Whether training batches carry their samples' seeds."""
        return bool(self.changes.batch) or bool(self.mixing) or self.strong is not None

    def _loader(self, dataset: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        return loader_of(dataset, batch_size, sampler, self.num_workers, self.pin_memory)
