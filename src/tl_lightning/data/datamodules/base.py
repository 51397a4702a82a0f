"""Base LightningDataModule of all datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from tl_lightning.config.hints import at_least
from tl_lightning.config.schema import CacheConfig
from tl_lightning.data import summary
from tl_lightning.data.cache.features import FeatureLoader, Features
from tl_lightning.data.cache.images import ImageCache
from tl_lightning.data.checks.domains import class_remarks, domain_problems
from tl_lightning.data.datasets import EvalDataset
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.encoding import LabelEncoding, encoded
from tl_lightning.data.io.folders import OnProblem
from tl_lightning.data.loaders import check_trainer, loader_of
from tl_lightning.data.named_domains import indices_of, sampling_problems, with_domains
from tl_lightning.data.needs import DataInfo, ModelNeeds, StatesNeeds
from tl_lightning.data.oracle import oracle_problems
from tl_lightning.data.samplers.choice import balanced
from tl_lightning.data.samplers.domain import DomainSampler, EvalSampler, shuffled
from tl_lightning.data.samplers.position import position_of
from tl_lightning.data.transforms.presets import Augment
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.types import DOMAINS, InputSpec, Spec, SplitKey, Stream
from tl_lightning.utils.spread import spread

__all__ = ["TransferDataModule"]

#: Evaluation batch size for cached, flat features.
EVAL_FEATURES = 2048
Loader = DataLoader[Any] | FeatureLoader


class TransferDataModule(L.LightningDataModule):
    """Base class of the data modules; decides which samples and labels a model can see.

    Subclasses for a kind of input (images, texts, vectors) build datasets from splits; subclasses
    of those implement :meth:`domains` for one dataset. Training and validation batches of the
    target contain no labels, so that no loss, metric or selection rule can use them. Only testing
    and ``selection=oracle``, which is marked as such in every report, see target labels.

    A training batch is a mapping from stream (``source``, ``target``) to
    :class:`~tl_lightning.types.Batch`; validation and testing have one loader per domain. A
    :class:`~tl_lightning.models.base.TransferModule` prepares the data for itself; any other
    LightningModule gets images of the default size, see :meth:`prepare`.

    Args:
        name: Name of the dataset in reports.
        batch_size: Samples per domain, training batch and rank.
        eval_batch_size: Samples per validation or test batch and rank.
        steps_per_epoch: Batches per epoch, or None for one pass over the larger domain.
        sampling: Whether source batches contain all samples, classes or domains equally often.
        target_sampling: Whether target batches contain all samples or all predicted classes equally
            often.
        num_workers: Loader processes for data on disk; data in memory needs none.
        seed: Seed of the run for sample order and augmentation; splits do not depend on it.
        pin_memory: Whether to copy batches to page-locked memory (for a GPU).
    """

    #: Overlap of the dataset with pretraining data, as text; empty if none is known.
    overlap: ClassVar[str] = ""
    #: Whether features can be cached by the index of a sample in its split.
    storable: ClassVar[bool] = True
    #: Kind of input, which the backbone must accept.
    gives: ClassVar[str] = "images"
    spec_type: ClassVar[type[Spec]] = InputSpec
    #: Whether strongly augmented views of the samples are available.
    has_strong: ClassVar[bool] = False
    #: Whether labels may be cells of columns: numbers, or several labels of a sample.
    has_cells: ClassVar[bool] = False
    #: Whether ``source.domain`` and ``target.domain`` can be set.
    has_domains: ClassVar[bool] = False
    #: Whether a ``target`` with only empty values means no target. It allows overrides such as
    #: ``data.target.root=...``, which Hydra rejects if ``target`` is null.
    target_optional: ClassVar[bool] = False
    #: Keys allowed in ``target``.
    target_keys: ClassVar[frozenset[str]] = frozenset()
    #: Key of ``target`` that a target must set; empty: any of ``target_keys``.
    target_requires: ClassVar[str] = ""
    #: Setting that gives the place of a target that is not one of several domains.
    target_place: ClassVar[str] = "root=<folder>"
    #: Augmentation and mixing of training samples; data modules of images override these.
    augment: Augment | Mapping[str, Any] = "none"
    transform: Callable[[Tensor], Tensor] | None = None
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __init__(
        self,
        *,
        name: str,
        batch_size: Annotated[int, at_least(1)],
        eval_batch_size: Annotated[int, at_least(1)],
        steps_per_epoch: Annotated[int, at_least(1)] | None,
        sampling: Literal["uniform", "class_balanced", "domain_balanced"],
        target_sampling: Literal["uniform", "pseudo_balanced"],
        num_workers: Annotated[int, at_least(0)],
        seed: int,
        pin_memory: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.steps_per_epoch = steps_per_epoch
        self.sampling = sampling
        self.target_sampling = target_sampling
        #: Returns the predicted classes ``(N,)`` of the target in an epoch; set by the model.
        self.predicted: Callable[[int], NDArray[np.int64]] | None = None
        self.num_workers = num_workers
        self.seed = seed
        self.pin_memory = pin_memory
        #: The configuration node that it was created from, if any.
        self.settings: Mapping[str, Any] | None = None
        self.needs: ModelNeeds | None = None
        #: The module that the trainer has prepared it for; itself if the caller did, with needs.
        self.prepared_for: Any = None
        #: Domain whose labelled training samples form the source stream.
        self.learn_from = "source"
        #: Domains of which a trained model is tested on all samples; nothing is held out for
        #: training and validation. Set before :meth:`discover`.
        self.only_tested: frozenset[str] = frozenset()
        self.encoding: LabelEncoding | None = None  # None: classes; set before :meth:`discover`
        self.found: dict[str, Domain] = {}
        #: All samples, if ``found`` has only some of them.
        self.whole: dict[str, Domain] = {}
        self.caches: dict[str, ImageCache] = {}
        #: Cached features of a frozen network, loaded instead of the samples.
        self.features: dict[SplitKey, Features] = {}
        #: Preprocessing fitted on the training samples, as plain values that are saved in
        #: checkpoints and applied to other data.
        self.input_state: dict[str, Any] = {}
        #: Skipped unreadable images by domain, as "path (reason)".
        self.unreadable: dict[str, list[str]] = {}
        self.repeat_epoch = False
        self.domain_indices: dict[Stream, Tensor] = {}
        #: Notes on batches and epochs that were fitted to the number of samples.
        self.size_notes: list[str] = []
        #: Batch size and steps per epoch that were fitted to the number of samples, if any.
        self.fitted: tuple[int, int] | None = None

    # -- implemented by datasets -----------------------------------------------------------
    def domains(self) -> Mapping[str, Domain]:
        """Return ``source`` and, if there is one, ``target``; lists files without opening them."""
        raise ConfigError(
            f"data._target_={type(self).__module__}.{type(self).__qualname__} does not implement "
            "domains; see docs/bring_your_own.md#lightningdatamodule"
        )

    # -- implemented by kinds of input -----------------------------------------------------
    def dataset(self, domain: str, split: Split, train: bool) -> Any:
        """Return a dataset whose ``__getitems__`` maps ``(index, seed)`` pairs to a batch."""
        raise NotImplementedError

    def default_spec(self) -> Spec:
        """Return the input specification for a model that states none."""
        raise ConfigError(
            f"data={self.name} cannot be used without an input specification; call "
            "prepare(ModelNeeds(input_spec=...)), see docs/bring_your_own.md#lightningmodule"
        )

    def cache_images(self, settings: CacheConfig, epochs: int) -> None:
        """Build or open the cache for a training of ``epochs`` epochs."""

    def check_browsable(self) -> None:
        """Raise DataError if the samples cannot be inspected one by one."""

    def aux_labels(self, column: str) -> Mapping[Path, str]:
        """Return the labels in one of ``label_columns`` by file; only tables have columns."""
        raise NotImplementedError

    def excerpts(self, domain: str, indices: list[int]) -> list[str]:
        """Return the beginning of the test texts at these indices; empty for other inputs."""
        return []

    def collect_problems(self, on_problem: OnProblem) -> None:
        """Pass problems that could be recovered from to a callback instead of raising them."""

    def without_unreadable(self, found: dict[str, Domain]) -> dict[str, Domain]:
        """Return the domains without unreadable samples, or raise DataError."""
        return found

    # -- preparation -----------------------------------------------------------------------
    def discover(
        self, learn_from: str | None = None, input_state: Mapping[str, Any] | None = None
    ) -> DataInfo:
        """Find and check the samples; a second call reads nothing again.

        Args:
            learn_from: Domain whose labels are learned; ``target`` only for an upper bound. None:
                as in the call before, at first ``source``.
            input_state: Preprocessing of a trained model, to apply in place of fitting it.

        Raises:
            DataError: If training cannot start.
        """
        if self.found:
            self.learn_from = learn_from or self.learn_from
            for problem in oracle_problems(self.learn_from, self.found):
                raise DataError(problem)
            if input_state and dict(input_state) != self.input_state:
                raise DataError(
                    f"data={self.name} has been read with another preprocessing than that of the "
                    "trained model; create a new data module"
                )
        else:
            self.learn_from = learn_from or "source"
            self.input_state = dict(input_state or {})
            found = dict(self.domains())
            self._raise_problems(found)
            found = encoded(self, found)
            self.found = self.without_unreadable(found)
            self._raise_problems(self.found)
            self.batch_size, self.size_notes = summary.fitting_batch(self.found, self.batch_size)
        numbers = summary.numbers(self.found)
        return DataInfo(self.classes, self.class_counts(), self.width, self.input_state, *numbers)

    def _raise_problems(self, found: Mapping[str, Domain]) -> None:
        for problem in self.check_domains(found):
            raise DataError(problem)

    def prepare(self, needs: ModelNeeds | None = None, repeat_epoch: bool = False) -> None:
        """Get ready for a model; :meth:`discover` is called first if it has not been.

        Args:
            needs: What the model asks for. None: inputs of the default form (images of 224 x 224
                pixels, those in memory of their own size), both domains, labels only of the source.
            repeat_epoch: Whether every epoch repeats the batches of the first, for debugging.

        Raises:
            ConfigError: If the model needs another kind of input.
            DataError: If the data do not fit the model.
        """
        self.discover()
        self.prepared_for = None if needs is None else self
        needs = needs or ModelNeeds(self.default_spec(), tuple(self.found))
        if not isinstance(needs.input_spec, self.spec_type):
            raise ConfigError(
                f"data={self.name} contains {self.gives}, which need a {self.spec_type.__name__}; "
                f"got {needs.input_spec}; set another data, or a backbone for {self.gives}"
            )
        if missing := [name for name in needs.train_on if name not in self.found]:
            raise DataError(
                f"the model trains on the {missing[0]}, but data={self.name} has only "
                f"{', '.join(self.found)}; set a {missing[0]}, or model=source_only"
            )
        self.needs = needs
        self.repeat_epoch = repeat_epoch

    def setup(self, stage: str) -> None:
        """Get ready for the trainer's module; called by Lightning on every rank.

        Raises:
            ConfigError: If the trainer would replace the samplers.
        """
        module = None if self.trainer is None else self.trainer.lightning_module
        if module is not None and self.prepared_for not in (self, module):
            self.needs = None  # those of another module, or the default
            if isinstance(module, StatesNeeds):
                self.discover(module.learn_from, module.input_state)
                self.prepare(module.needs())
            self.prepared_for = module
        self.discover()
        check_trainer(self.trainer)

    @property
    def prepared(self) -> ModelNeeds:
        """What the model asked for; the default if nothing did."""
        if self.needs is None:
            self.prepare()
        assert self.needs is not None
        return self.needs

    # -- description -----------------------------------------------------------------------
    @property
    def domain_names(self) -> list[str]:
        """The domains of the data module, source first."""
        return [name for name in DOMAINS if name in self.found]

    @property
    def validated(self) -> list[str]:
        """The domains with validation samples, source first; a target may be only tested."""
        return [name for name in self.domain_names if len(self.found[name].val)]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the source, indexed by the labels of all domains."""
        return self.found["source"].classes

    @property
    def of_cells(self) -> bool:
        """Whether labels are cells of columns instead of classes."""
        return getattr(self.encoding, "of_cells", False)

    @property
    def width(self) -> int | None:
        """Length of the vectors; None for other inputs."""
        return None

    def class_counts(self) -> list[int] | None:
        """Return the number of labelled training samples per class, or None without labels."""
        return None if self.of_cells else summary.class_counts(self.found[self.learn_from])

    def counts(self) -> dict[str, int]:
        """Return the number of samples by ``domain/split``."""
        return summary.counts(self.found)

    def fingerprint(self) -> str:
        """Return a hash of the classes, and of the names, labels and contents of all samples."""
        return summary.fingerprint(self.found)

    def notes(self, pretrained: bool) -> list[str]:
        """Return the notes on the data to show in the report.

        Args:
            pretrained: Whether the backbone is pretrained, so that overlap matters.
        """
        found = summary.domain_notes(self.found, self.unreadable, self.overlap, pretrained)
        return [*found, *self.size_notes, *self.remarks()]

    def remarks(self) -> list[str]:
        """Return what is odd about the samples, though a run is possible; shown at the start."""
        return [] if self.of_cells else list(class_remarks("source", self.found["source"]))

    def check_domains(self, found: Mapping[str, Domain]) -> Iterator[str]:
        """Yield problems that prevent training, such as empty or too small splits."""
        yield from oracle_problems(self.learn_from, found)
        named: Any = {"name": self.name, "gives": self.gives, "only_tested": self.only_tested}
        yield from domain_problems(found, classes=not self.of_cells, **named)
        yield from sampling_problems(self.sampling, found[self.learn_from])

    # -- training --------------------------------------------------------------------------
    @property
    def num_batches(self) -> int:
        """Batches per epoch and rank; the same for every model, so that methods are comparable."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        world = self.trainer.world_size if self.trainer is not None else 1
        largest = max(len(domain.train) for domain in self.found.values())
        return max(1, largest // (self.batch_size * world))

    def train_dataloader(self) -> dict[str, Loader]:
        """Return one loader per training stream; target batches contain no labels."""
        epoch, start = position_of(self.trainer, self.num_batches)
        rank, world = self._rank()
        loaders: dict[str, Loader] = {}
        splits = self.training_splits()
        self.domain_indices = indices_of(splits)
        for stream, split in splits.items():
            place: dict[str, Any] = {
                "batch_size": self.batch_size, "num_batches": self.num_batches, "seed": self.seed,
                "domain": stream.number, "rank": rank, "world": world, "epoch": epoch,
                "start": start, "repeat": self.repeat_epoch,
            }  # fmt: skip
            sampler = balanced(self, stream, split, **place)
            sampler = sampler or self.train_sampler(stream, split, **place)
            features = self.features.get(self.key_of(stream))
            if features is not None:
                loaders[stream] = FeatureLoader(
                    features, split.labels, self.batch_size, sampler, split.aux_labels
                )
            else:
                dataset = self.dataset(self.domain_of(stream), split, train=True)
                loaders[stream] = self._loader(dataset, self.batch_size, sampler)
        return loaders

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Add the domain of every sample to streams that draw from several."""
        return with_domains(batch, self.domain_indices)

    def train_sampler(self, stream: Stream, split: Split, **kwargs: Any) -> DomainSampler:
        """Return the sampler of a training stream; the arguments are those of DomainSampler."""
        return DomainSampler(size=len(split), **kwargs)

    def training_splits(self) -> dict[Stream, Split]:
        """Return the training split of every stream; ``target`` has no labels."""
        splits = {}
        if "source" in self.prepared.train_on:
            splits[Stream.SOURCE] = self.found[self.learn_from].train
        if "target" in self.prepared.train_on:
            splits[Stream.TARGET] = self.found["target"].train.without_labels()
        labelled = self.found["target"].labelled if "target" in self.found else None
        return splits if labelled is None else {**splits, Stream.TARGET_LABELLED: labelled}

    def domain_of(self, stream: Stream) -> str:
        """Return the domain that a stream of training batches draws from."""
        return self.learn_from if stream is Stream.SOURCE else stream.domain

    def key_of(self, stream: Stream) -> SplitKey:
        """Return the split that a stream of training batches draws from."""
        split = "labelled" if stream is Stream.TARGET_LABELLED else "train"
        return SplitKey(self.domain_of(stream), split)

    # -- evaluation ------------------------------------------------------------------------
    def val_dataloader(self) -> list[Loader]:
        """Return the validation loaders, source first; unlabelled where the model may not peek."""
        labelled = self.prepared.val_labels
        splits = {name: self.found[name].val for name in self.validated}
        hidden = {k: v if k in labelled else v.without_labels() for k, v in splits.items()}
        return [self._eval_loader(SplitKey(name, "val"), one) for name, one in hidden.items()]

    def test_dataloader(self) -> list[Loader]:
        """Return the test loaders, source first; batches have labels if the samples have any."""
        keys = [SplitKey(name, "test") for name in self.domain_names]
        return [self._eval_loader(key, self.found[key.domain].test) for key in keys]

    def _eval_loader(self, key: SplitKey, split: Split) -> Loader:
        rank, world = self._rank()
        features = self.features.get(key)
        if features is not None:
            sampler = EvalSampler(size=len(split), rank=rank, world=world)
            # The head takes about as long for many flat features as for a few.
            size = max(EVAL_FEATURES if features.flat else 0, self.eval_batch_size)
            given = split.labels, size, sampler, split.aux_labels, split.domains
            return FeatureLoader(features, *given)
        dataset = EvalDataset(self.dataset(key.domain, split, train=False), split.domains)
        sampler = self.eval_sampler(key, split, rank, world)
        return self._loader(dataset, self.eval_batch_size, sampler)

    def eval_sampler(self, key: SplitKey, split: Split, rank: int, world: int) -> EvalSampler:
        """Return the sampler of a validation or test split."""
        return EvalSampler(size=len(split), rank=rank, world=world)

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if (t := self.trainer) is None else (t.global_rank, t.world_size)

    def _loader(self, dataset: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        return loader_of(dataset, batch_size, sampler, self.num_workers, self.pin_memory)

    # -- inspection: every rank gets all samples, without labels -----------------------------
    def sample_loader(
        self, domain: str, count: int, images: bool = False
    ) -> tuple[Iterable[Any], list[int]]:
        """Return batches of at most ``count`` test samples, spread over the split.

        Also returns their indices in the split. Cached features are used instead of the samples
        unless ``images`` is set.
        """
        indices = self.sample_indices(domain, count)
        features = self.features.get(SplitKey(domain, "test"))
        if features is not None and not images:
            index = torch.tensor(indices)
            batch = {"inputs": features.rows(index), "index": index}
            if (domains := self.found[domain].test.domains) is not None:
                batch["domain"] = torch.from_numpy(domains)[index]
            return [batch], indices
        split = self.found[domain].test.without_labels().subset(indices)
        dataset = EvalDataset(self.dataset(domain, split, train=False), split.domains)
        return self._loader(dataset, self.eval_batch_size, EvalSampler(size=len(split))), indices

    def sample_indices(self, domain: str, count: int) -> list[int]:
        """Return the indices of at most ``count`` test samples, spread over the split."""
        return spread(len(self.found[domain].test), count)

    def whole_loader(
        self, domain: str, count: int | None = None, split: str = "train"
    ) -> Iterable[Any]:
        """Return a split in order, or ``count`` of its samples; neither augmented nor labelled."""
        features = self.features.get(SplitKey(domain, split))
        part = self.found[domain].splits()[split].without_labels()
        if count is not None:
            part, features = part.subset(shuffled(spread(len(part), count))), None
        sampler = EvalSampler(size=len(part))
        if features is not None:
            given = None, self.eval_batch_size, sampler, None, part.domains
            return FeatureLoader(features, *given)
        dataset = EvalDataset(self.dataset(domain, part, train=False), part.domains)
        return self._loader(dataset, self.eval_batch_size, sampler)

    def image_loader(
        self, key: SplitKey, split: Split, batch_size: int, sampler: Any, augmented: bool,
        workers: int,
    ) -> DataLoader[Any]:  # fmt: skip
        """Return a loader for a single pass over the samples of a split."""
        dataset = self.dataset(key.domain, split, train=augmented)
        return loader_of(dataset, batch_size, sampler, workers, self.pin_memory)

    def stored_splits(self) -> dict[SplitKey, Split]:
        """Return all splits that a run passes through the model."""
        found = {self.key_of(stream): split for stream, split in self.training_splits().items()}
        for name in self.domain_names:
            if name in self.validated:
                found[SplitKey(name, "val")] = self.found[name].val
            found[SplitKey(name, "test")] = self.found[name].test
        return found
