"""The LightningDataModule that all data sets share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import lightning as L
import torch
from torch.utils.data import DataLoader

from tl_lightning.data.cache.features import FeatureLoader, Features
from tl_lightning.data.cache.images import CacheSettings, PictureCache
from tl_lightning.data.datasets import EvalDataset
from tl_lightning.data.domain import DOMAINS, Domain, Split
from tl_lightning.data.loaders import loader_of
from tl_lightning.data.samplers.domain import DomainSampler, EvalSampler, spread
from tl_lightning.data.summary import Facts
from tl_lightning.data.transforms.presets import Augment
from tl_lightning.errors import DataError
from tl_lightning.types import Spec

__all__ = ["Looks", "TransferData"]


class Looks:
    """The part of a data module that shows some pictures, or all, once and as they are."""

    found: dict[str, Domain]
    features: dict[str, Features]
    eval_batch_size: int
    pin_memory: bool

    @property
    def roles(self) -> list[str]:
        """The domains present, source first."""
        raise NotImplementedError

    def training_splits(self) -> dict[str, Split]:
        """Return what trains."""
        raise NotImplementedError

    def domain_of(self, stream: str) -> str:
        """Return whose pictures a stream of training batches shows."""
        raise NotImplementedError

    def _dataset(self, role: str, split: Split, train: bool) -> Any:
        raise NotImplementedError

    def _loader(self, dataset: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        raise NotImplementedError

    def sample_loader(
        self, role: str, count: int, pictures: bool = False
    ) -> tuple[Iterable[Any], list[int]]:
        """Return batches of ``count`` test pictures without labels, spread over the split.

        Every rank gets all of them. Also returns their places in the split. Where there are stored
        features they stand for the pictures, unless it must be ``pictures``.
        """
        places = self.sample_places(role, count)
        features = self.features.get(f"{role}/test")
        if features is not None and not pictures:
            index = torch.tensor(places)
            return [{"inputs": features.rows(index), "index": index}], places
        split = self.found[role].test.without_labels().subset(places)
        sampler = EvalSampler(size=len(split))
        dataset = EvalDataset(self._dataset(role, split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler), places

    def sample_places(self, role: str, count: int) -> list[int]:
        """Return the places of at most ``count`` test pictures, spread over the split."""
        return spread(len(self.found[role].test), count)

    def excerpts(self, role: str, places: list[int]) -> list[str]:
        """Return how the test texts at these places begin; nothing where there are no texts."""
        return []

    def whole_loader(self, role: str) -> Iterable[Any]:
        """Return batches of a domain's training split in order, as in evaluation, without labels.

        Every rank gets all of them.
        """
        features = self.features.get(f"{role}/train")
        split = self.found[role].train.without_labels()
        sampler = EvalSampler(size=len(split))
        if features is not None:
            return FeatureLoader(features, None, self.eval_batch_size, sampler)
        dataset = EvalDataset(self._dataset(role, split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler)

    def picture_loader(
        self, role: str, split: Split, batch_size: int, sampler: Any, augmented: bool, workers: int
    ) -> DataLoader[Any]:
        """Return a loader of a split's pictures, for what looks at them once."""
        dataset = self._dataset(role, split, train=augmented)
        return loader_of(dataset, batch_size, sampler, workers, self.pin_memory)

    def stored_splits(self) -> dict[str, Split]:
        """Return by ``role/split`` every split that a run shows to the model."""
        splits = self.training_splits().items()
        found = {f"{self.domain_of(role)}/train": split for role, split in splits}
        for role in self.roles:
            found[f"{role}/val"] = self.found[role].val
            found[f"{role}/test"] = self.found[role].test
        return found


#: Samples of an evaluation batch of ready features.
EVAL_FEATURES = 2048
#: Every stream of training batches; its number goes into its samples' seeds.
STREAMS = (*DOMAINS, "target_labelled")


class TransferData(Facts, Looks, L.LightningDataModule):
    """Owns what is shown to the model, and what is not.

    A kind of input (pictures, texts, vectors) is a subclass that makes datasets of splits; a data
    set is a subclass of that with :meth:`domains`. Training and validation batches of the target
    carry no labels at all, so that no loss, metric or checkpoint rule can peek; only testing (and
    ``selection=oracle``, which says so wherever its figure stands) does.

    Args:
        name: The dataset's name in reports.
        batch_size: Samples of each domain a training batch and rank.
        eval_batch_size: Samples a validation or test batch and rank.
        steps_per_epoch: Batches an epoch, or None for one pass over the larger domain.
        num_workers: Loader processes for what lies on disk; what is in memory needs none.
        seed: The run's seed: orders and augmentation, never the splits.
        pin_memory: Whether batches are copied to page-locked memory (for a GPU).
    """

    #: Whether what is computed of its samples can be kept by their places in a split.
    storable: ClassVar[bool] = True
    #: What a backbone must take to stand behind it.
    gives: ClassVar[str] = "pictures"
    #: Whether there is a strongly changed view of a sample.
    has_strong: ClassVar[bool] = False
    #: How training samples are varied and mixed, where a kind of input knows of such things.
    augment: Augment | Mapping[str, Any] = "none"
    mix: Mapping[str, Any] = {}

    def __init__(
        self,
        *,
        name: str,
        batch_size: int,
        eval_batch_size: int,
        steps_per_epoch: int | None,
        num_workers: int,
        seed: int,
        pin_memory: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.steps_per_epoch = steps_per_epoch
        self.num_workers = num_workers
        self.seed = seed
        self.pin_memory = pin_memory
        self.train_on: tuple[str, ...] = DOMAINS
        self.val_labels: tuple[str, ...] = ("source",)
        #: Whose labelled training pictures the source's stream shows.
        self.learn_from = "source"
        self.spec: Spec | None = None
        self.found: dict[str, Domain] = {}
        self.caches: dict[str, PictureCache] = {}
        #: Of a frozen network, by ``role/split``; shown instead of the samples.
        self.features: dict[str, Features] = {}
        #: How samples became inputs, where that was learned from those for training: plain values,
        #: which a checkpoint keeps for other data.
        self.learned: dict[str, Any] = {}
        #: Pictures left out because they cannot be read: a sentence each, by domain.
        self.quarantined: dict[str, list[str]] = {}

    # -- what a dataset says ---------------------------------------------------------------
    def domains(self) -> Mapping[str, Domain]:
        """Return ``source`` and, unless there is none, ``target``. Reads lists, not files."""
        raise NotImplementedError

    # -- what every dataset shares ---------------------------------------------------------
    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the source; labels of every domain index these."""
        return self.found["source"].classes

    def discover(self) -> None:
        """Find the samples and check that training can start; raises DataError if not."""
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
            if len(domain.classes) == 1:
                yield (
                    f"{role} ({domain.name}) has only the class {domain.classes[0]!r}, and a "
                    f"classifier needs at least two; see what data={self.name} is given"
                )
                return
        for role, domain in found.items():
            for split in ("train", "val", "test"):
                if len(getattr(domain, split)) == 0:
                    yield (
                        f"{role} ({domain.name}) has no {self.gives} for {split}; "
                        f"add some, or change data.{role} or data.val_fraction"
                    )
            if 0 < len(domain.train) < self.batch_size:
                yield (
                    f"{role} ({domain.name}) has {len(domain.train)} training {self.gives}, fewer "
                    f"than data.batch_size={self.batch_size}; type "
                    f"data.batch_size={len(domain.train)} or less"
                )

    def attach(
        self,
        spec: Spec,
        train_on: tuple[str, ...],
        val_labels: tuple[str, ...],
        strong: bool = False,
    ) -> None:
        """Tell the data what the model needs: the input's form, domains, labels in validation.

        Args:
            spec: The form of the input.
            train_on: Domains that train.
            val_labels: Domains whose validation batches hold labels.
            strong: Whether the target's training samples are also wanted strongly changed.
        """
        assert self.has_strong or not strong, "the settings' check asks has_strong first"
        self.spec = spec
        self.train_on = train_on
        self.val_labels = val_labels

    def cache(self, settings: CacheSettings, epochs: int) -> None:
        """Prepare once what every epoch needs, or find it prepared; ``epochs`` will train."""

    def browse(self) -> None:
        """Raise DataError if the samples cannot be looked at one by one."""

    @property
    def num_batches(self) -> int:
        """Batches an epoch and rank: the same for every model, so that methods compare."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        world = self.trainer.world_size if self.trainer is not None else 1
        largest = max(len(domain.train) for domain in self.found.values())
        return max(1, largest // (self.batch_size * world))

    def _batches_shown(self, limit: float | None) -> int:
        """Return how many of an epoch's batches the trainer takes: a number or a share of them."""
        if limit is None:
            return self.num_batches
        share = int(self.num_batches * limit) if isinstance(limit, float) else limit
        return max(1, min(self.num_batches, share))

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
        epoch, start = divmod(total.processed, self._batches_shown(trainer.limit_train_batches))
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
        """Return what trains: the source, the target without labels, its few labelled samples."""
        splits = {"source": self.found[self.learn_from].train} if "source" in self.train_on else {}
        if "target" in self.train_on:
            splits["target"] = self.found["target"].train.without_labels()
        labelled = self.found["target"].labelled if "target" in self.found else None
        return splits if labelled is None else {**splits, "target_labelled": labelled}

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

    def _dataset(self, role: str, split: Split, train: bool) -> Any:
        """Return the dataset of a split: ``__getitems__`` of ``(index, seed)`` pairs is a batch."""
        raise NotImplementedError

    def _loader(self, dataset: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        return loader_of(dataset, batch_size, sampler, self.num_workers, self.pin_memory)
