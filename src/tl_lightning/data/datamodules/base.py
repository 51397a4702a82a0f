"""Base LightningDataModule of all datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import lightning as L
import torch
from torch.utils.data import DataLoader

from tl_lightning.data.cache.features import FeatureLoader, Features
from tl_lightning.data.cache.images import CacheSettings, ImageCache
from tl_lightning.data.datasets import EvalDataset
from tl_lightning.data.domain import DOMAINS, Domain, Split
from tl_lightning.data.loaders import loader_of
from tl_lightning.data.samplers.domain import DomainSampler, EvalSampler, spread
from tl_lightning.data.summary import LabelInfo
from tl_lightning.data.transforms.presets import Augment
from tl_lightning.errors import DataError
from tl_lightning.types import Spec

__all__ = ["InspectionLoaders", "TransferDataModule"]


class InspectionLoaders:
    """Mixin with loaders that pass over samples once, without labels, for inspection."""

    found: dict[str, Domain]
    features: dict[str, Features]
    eval_batch_size: int
    pin_memory: bool

    @property
    def roles(self) -> list[str]:
        """The domains of the data module, source first."""
        raise NotImplementedError

    def training_splits(self) -> dict[str, Split]:
        """Return the training split of every stream."""
        raise NotImplementedError

    def domain_of(self, stream: str) -> str:
        """Return the domain that a stream of training batches draws from."""
        raise NotImplementedError

    def _dataset(self, role: str, split: Split, train: bool) -> Any:
        raise NotImplementedError

    def _loader(self, dataset: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        raise NotImplementedError

    def sample_loader(
        self, role: str, count: int, images: bool = False
    ) -> tuple[Iterable[Any], list[int]]:
        """Return batches of at most ``count`` unlabelled test samples, spread over the split.

        Every rank gets all of them. Also returns their indices in the split. Cached features are
        used instead of the samples unless ``images`` is set.
        """
        indices = self.sample_places(role, count)
        features = self.features.get(f"{role}/test")
        if features is not None and not images:
            index = torch.tensor(indices)
            return [{"inputs": features.rows(index), "index": index}], indices
        split = self.found[role].test.without_labels().subset(indices)
        sampler = EvalSampler(size=len(split))
        dataset = EvalDataset(self._dataset(role, split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler), indices

    def sample_places(self, role: str, count: int) -> list[int]:
        """Return the indices of at most ``count`` test samples, spread over the split."""
        return spread(len(self.found[role].test), count)

    def excerpts(self, role: str, places: list[int]) -> list[str]:
        """Return the beginning of the test texts at these indices; empty for other inputs."""
        return []

    def whole_loader(self, role: str) -> Iterable[Any]:
        """Return unlabelled batches of a domain's training split, in order and not augmented.

        Every rank gets all of them.
        """
        features = self.features.get(f"{role}/train")
        split = self.found[role].train.without_labels()
        sampler = EvalSampler(size=len(split))
        if features is not None:
            return FeatureLoader(features, None, self.eval_batch_size, sampler)
        dataset = EvalDataset(self._dataset(role, split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler)

    def image_loader(
        self, role: str, split: Split, batch_size: int, sampler: Any, augmented: bool, workers: int
    ) -> DataLoader[Any]:
        """Return a loader for a single pass over the images of a split."""
        dataset = self._dataset(role, split, train=augmented)
        return loader_of(dataset, batch_size, sampler, workers, self.pin_memory)

    def stored_splits(self) -> dict[str, Split]:
        """Return all splits that a run passes through the model, by ``domain/split``."""
        splits = self.training_splits().items()
        found = {f"{self.domain_of(role)}/train": split for role, split in splits}
        for role in self.roles:
            found[f"{role}/val"] = self.found[role].val
            found[f"{role}/test"] = self.found[role].test
        return found


#: Evaluation batch size for cached, flat features.
EVAL_FEATURES = 2048
#: Streams of training batches; the index of a stream is part of its samples' seeds.
STREAMS = (*DOMAINS, "target_labelled")


class TransferDataModule(LabelInfo, InspectionLoaders, L.LightningDataModule):
    """Base class of the data modules; decides which samples and labels a model can see.

    Subclasses for a kind of input (images, texts, vectors) build datasets from splits; subclasses
    of those implement :meth:`domains` for one dataset. Training and validation batches of the
    target contain no labels, so that no loss, metric or selection rule can use them. Only testing
    and ``selection=oracle``, which is marked as such in every report, see target labels.

    Args:
        name: Name of the dataset in reports.
        batch_size: Samples per domain, training batch and rank.
        eval_batch_size: Samples per validation or test batch and rank.
        steps_per_epoch: Batches per epoch, or None for one pass over the larger domain.
        num_workers: Loader processes for data on disk; data in memory needs none.
        seed: Seed of the run for sample order and augmentation; splits do not depend on it.
        pin_memory: Whether to copy batches to page-locked memory (for a GPU).
    """

    #: Whether features can be cached by the index of a sample in its split.
    storable: ClassVar[bool] = True
    #: Kind of input, which the backbone must accept.
    gives: ClassVar[str] = "images"
    #: Whether strongly augmented views of the samples are available.
    has_strong: ClassVar[bool] = False
    #: Augmentation and mixing of training samples; data modules of images override these.
    augment: Augment | Mapping[str, Any] = "none"
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

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
        #: Domain whose labelled training samples form the source stream.
        self.learn_from = "source"
        self.spec: Spec | None = None
        self.found: dict[str, Domain] = {}
        self.caches: dict[str, ImageCache] = {}
        #: Cached features of a frozen network by ``domain/split``, loaded instead of the samples.
        self.features: dict[str, Features] = {}
        #: Preprocessing fitted on the training samples, as plain values that are saved in
        #: checkpoints and applied to other data.
        self.learned: dict[str, Any] = {}
        #: Skipped unreadable images by domain, as "path (reason)".
        self.unreadable: dict[str, list[str]] = {}

    # -- implemented by datasets -----------------------------------------------------------
    def domains(self) -> Mapping[str, Domain]:
        """Return ``source`` and, if there is one, ``target``; lists files without opening them."""
        raise NotImplementedError

    # -- shared by all datasets ------------------------------------------------------------
    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the source, indexed by the labels of all domains."""
        return self.found["source"].classes

    def discover(self) -> None:
        """Find and check the samples; raises DataError if training cannot start."""
        if self.found:
            return
        found = dict(self.domains())
        for screen in (lambda domains: domains, self.screened):
            found = screen(found)
            for problem in self.check_domains(found):
                raise DataError(problem)
        self.found = found

    def screened(self, found: dict[str, Domain]) -> dict[str, Domain]:
        """Return the domains without unreadable samples, or raise DataError."""
        return found

    def check_domains(self, found: Mapping[str, Domain]) -> Iterator[str]:
        """Yield problems that prevent training, such as empty or too small splits."""
        yield from self.oracle_problems(found)
        for role, domain in found.items():
            if len(domain.classes) == 1:
                yield (
                    f"{role} ({domain.name}) has only the class {domain.classes[0]!r}, but a "
                    f"classifier needs at least two; check the settings of data={self.name}"
                )
                return
        for role, domain in found.items():
            for split in ("train", "val", "test"):
                if len(getattr(domain, split)) == 0:
                    yield (
                        f"{role} ({domain.name}) has no {self.gives} in the {split} split; "
                        f"add some, or change data.{role} or data.val_fraction"
                    )
            if 0 < len(domain.train) < self.batch_size:
                yield (
                    f"{role} ({domain.name}) has {len(domain.train)} training {self.gives}, fewer "
                    f"than data.batch_size={self.batch_size}; set "
                    f"data.batch_size={len(domain.train)} or less"
                )

    def attach(
        self,
        spec: Spec,
        train_on: tuple[str, ...],
        val_labels: tuple[str, ...],
        strong: bool = False,
    ) -> None:
        """Configure the data for a model.

        Args:
            spec: Input specification of the backbone.
            train_on: Domains to train on.
            val_labels: Domains whose validation batches contain labels.
            strong: Whether to add strongly augmented views of the target's training samples.
        """
        assert self.has_strong or not strong, "the configuration check tests has_strong first"
        self.spec = spec
        self.train_on = train_on
        self.val_labels = val_labels

    def cache(self, settings: CacheSettings, epochs: int) -> None:
        """Build or open the cache for a training of ``epochs`` epochs."""

    def browse(self) -> None:
        """Raise DataError if the samples cannot be inspected one by one."""

    @property
    def num_batches(self) -> int:
        """Batches per epoch and rank; the same for every model, so that methods are comparable."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        world = self.trainer.world_size if self.trainer is not None else 1
        largest = max(len(domain.train) for domain in self.found.values())
        return max(1, largest // (self.batch_size * world))

    def _batches_shown(self, limit: float | None) -> int:
        """Return the batches per epoch under ``limit_train_batches``, a count or a fraction."""
        if limit is None:
            return self.num_batches
        count = int(self.num_batches * limit) if isinstance(limit, float) else limit
        return max(1, min(self.num_batches, count))

    def setup(self, stage: str) -> None:
        """Find the data; called by Lightning on every rank."""
        self.discover()

    # -- loaders -----------------------------------------------------------------------------
    def train_dataloader(self) -> dict[str, DataLoader[Any] | FeatureLoader]:
        """Return one loader per training stream; target batches contain no labels."""
        trainer = self.trainer
        assert trainer is not None
        # Batches processed in all epochs so far: a resumed run continues with the next one.
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
                    features, split.labels, self.batch_size, sampler, split.aux_labels
                )
                continue
            dataset = self._dataset(domain, split, train=True)
            loaders[role] = self._loader(dataset, self.batch_size, sampler)
        return loaders

    def _sampler(self, split: Split, **kwargs: Any) -> DomainSampler:
        return DomainSampler(size=len(split), **kwargs)

    def training_splits(self) -> dict[str, Split]:
        """Return the training split of every stream; ``target`` has no labels."""
        splits = {"source": self.found[self.learn_from].train} if "source" in self.train_on else {}
        if "target" in self.train_on:
            splits["target"] = self.found["target"].train.without_labels()
        labelled = self.found["target"].labelled if "target" in self.found else None
        return splits if labelled is None else {**splits, "target_labelled": labelled}

    def val_dataloader(self) -> list[DataLoader[Any] | FeatureLoader]:
        """Return the validation loaders, source first, with labels only for ``val_labels``."""
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
            # The head takes about as long for many flat features as for a few.
            many = EVAL_FEATURES if stored.flat else self.eval_batch_size
            size = max(many, self.eval_batch_size)
            return FeatureLoader(stored, split.labels, size, sampler, split.aux_labels)
        dataset = EvalDataset(self._dataset(name.partition("/")[0], split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler)

    def _dataset(self, role: str, split: Split, train: bool) -> Any:
        """Return a dataset whose ``__getitems__`` maps ``(index, seed)`` pairs to a batch."""
        raise NotImplementedError

    def _loader(self, dataset: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        return loader_of(dataset, batch_size, sampler, self.num_workers, self.pin_memory)
