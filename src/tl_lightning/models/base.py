"""Base LightningModule: training step, metrics and checkpoint state shared by all models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import lightning as L
import torch
from torch import Tensor, nn

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.distributed.ranks import same_buffers
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.losses.regularizers import Regularizer
from tl_lightning.methods.components.domain_norm import assign_domains
from tl_lightning.models.epoch_means import EpochMeans
from tl_lightning.models.inputs import Normalise, as_batch, joined, training_batches
from tl_lightning.models.optimization import OptimizerFactory, ParameterGroups, total_batches
from tl_lightning.models.phases import Phases
from tl_lightning.schedules import Schedule, TorchScheduler
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask
from tl_lightning.tasks.classification import Classification
from tl_lightning.tasks.evaluation import EvalMetrics
from tl_lightning.tasks.label_task import LabelTask
from tl_lightning.tasks.loss_weighting import TaskWeighting
from tl_lightning.tasks.multitask import MultiTask
from tl_lightning.types import (
    DOMAINS,
    Backbone,
    Batch,
    LayerGroup,
    Spec,
    SplitKey,
    Stream,
    Terms,
    View,
)
from tl_lightning.utils.seeding import mix

__all__ = ["TransferModule"]


class TransferModule(L.LightningModule):
    """A backbone and a task with the training loop; subclasses implement :meth:`losses`.

    Args:
        name: Name of the model in reports.
        backbone: Maps normalised images to features.
        task: Maps features to logits and loss.
        optimizer: Builds the optimizer from named parameter groups with their learning rates.
        lr: Learning rate of new layers; that of the backbone is ``lr * backbone.lr_factor``.
        schedule: Maps progress to a factor on every learning rate, or a scheduler of torch.
        phases: Layers to train in each phase.
        layer_decay: Of ``n`` layer groups with parameters, group ``k`` has the learning rate ``lr *
            backbone.lr_factor * layer_decay ** (n - 1 - k)`` (Clark et al., "ELECTRA", ICLR 2020).
        seed: Seed of the run, used to seed each step.
        channels_last: Whether to use the channels-last memory format (faster for convolutions).
        regularizers: Regularizers by name; their terms are added to every step's loss.
        aux_tasks: Auxiliary tasks by name, on the features that the task's classifier sees.
        task_weighting: How to combine their losses with the task's loss.
        saved: Plain values needed to rebuild the model from a checkpoint: ``config``, ``classes``.
    """

    #: Domains whose batches are used in the training step.
    train_on: ClassVar[tuple[str, ...]] = ("source",)
    #: Domain whose labels are used for training; ``target`` only for the oracle (upper bound).
    learn_from: ClassVar[str] = "source"
    #: ``joint`` passes all domains through the backbone in one batch, ``separate`` one by one.
    forward_mode: Literal["joint", "separate"] = "joint"
    #: Domains that are only tested, without any part in training and selection.
    unseen: ClassVar[frozenset[str]] = frozenset()
    #: Whether a run consists of several others, see :mod:`tl_lightning.training.auto`.
    composite: ClassVar[bool] = False
    #: Whether the set of trainable layers may change from phase to phase.
    takes_phases: ClassVar[bool] = True

    def __init__(
        self,
        *,
        name: str,
        backbone: Backbone,
        task: Classification | LabelTask,
        optimizer: OptimizerFactory,
        lr: float,
        schedule: Schedule | TorchScheduler,
        phases: Phases,
        layer_decay: float,
        seed: int,
        channels_last: bool,
        regularizers: dict[str, Regularizer],
        aux_tasks: dict[str, AuxiliaryTask],
        task_weighting: TaskWeighting,
        saved: dict[str, Any],
    ) -> None:
        super().__init__()
        self.name = name
        self.backbone: Any = backbone  # both a Backbone and an nn.Module
        self.task = task
        self.regularizers = nn.ModuleDict(regularizers)
        self.make_optimizer = optimizer
        self.lr = lr
        self.phases = phases
        self.groups = ParameterGroups(
            backbone, phases=phases, lr=lr, schedule=schedule, layer_decay=layer_decay
        )
        #: Modules that the current phase keeps in evaluation mode.
        self.frozen_modules: tuple[nn.Module, ...] = ()
        self.seed = seed
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        #: Completed fraction of the run, and number of completed batches.
        self.progress = 0.0
        self.batches = 0
        #: Layer groups that cached features still have to pass, see :meth:`extract`.
        self.remaining_layers: tuple[LayerGroup, ...] = ()
        #: Preprocessing fitted on the training samples, see :class:`.DataInfo`.
        self.input_state: Mapping[str, Any] = {}
        #: Fingerprint and counts of the training data, compared when a run is resumed.
        self.data_state: Mapping[str, Any] = {}
        self.means = EpochMeans()
        #: Means of the finished epoch, and their number of samples.
        self.epoch_means: tuple[dict[str, float], int] = ({}, 0)
        #: Terms of the current step, if the gradients of each task are needed separately.
        self.terms_of_step: Terms | None = None
        # Only plain dicts, lists and numbers, so that checkpoints load with weights_only=True.
        self.save_hyperparameters(saved)
        #: Input format of the backbone; None if it takes the inputs of own loaders as they are.
        self.input_spec: Spec | None = getattr(backbone, "input_spec", None)
        self.normalise = Normalise(self.input_spec, self.layout)
        self.multitask = MultiTask(aux_tasks, task_weighting)
        self.metrics = EvalMetrics(task, aux_tasks)
        #: Auxiliary labels of the step by stream; not part of the views, which methods can read.
        self.aux_labels: dict[Stream, dict[str, Tensor]] = {}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: Any, map_location: Any = None, **kwargs: Any
    ) -> Self:
        """Rebuild a trained model from its checkpoint, see :func:`tl_lightning.load`.

        Args:
            checkpoint_path: A checkpoint or run folder.
            map_location: Device of the model.
            kwargs: As for :func:`tl_lightning.load`.

        Raises:
            CheckpointError: If it is not a checkpoint of this framework.
            TypeError: If it contains a model of another class.
        """
        import tl_lightning

        module = tl_lightning.load(checkpoint_path, **kwargs)
        if not isinstance(module, cls):
            raise TypeError(
                f"{checkpoint_path} contains a {type(module).__name__}, which is not a "
                f"{cls.__name__}; call tl_lightning.load for any model"
            )
        return module if map_location is None else module.to(map_location)

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield why the class cannot be trained."""
        if cls.losses is TransferModule.losses:
            yield (
                f"{where}._target_={cls.__module__}.{cls.__qualname__} does not implement losses; "
                "see docs/bring_your_own.md#lightningmodule"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, indexed by the labels."""
        saved: Any = self.hparams
        return tuple(saved.classes)

    # -- overridden by subclasses ------------------------------------------------------------
    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the named loss terms of one training step; their sum is minimised."""
        raise NotImplementedError(
            f"{type(self).__name__}.losses is not implemented; it maps a batch to the terms of the "
            "loss by name, see docs/bring_your_own.md#lightningmodule"
        )

    def needs(self) -> ModelNeeds:
        """Return what the model asks of the data.

        Raises:
            ConfigError: If the backbone does not state its input format.
        """
        if self.input_spec is None:
            raise ConfigError(
                f"the backbone {type(self.backbone).__name__} has no attribute input_spec, which "
                "tells the data how to prepare the inputs; see docs/bring_your_own.md#backbone"
            )
        return ModelNeeds(
            self.input_spec,
            train_on=self.train_on,
            val_labels=("source", "target") if self.learn_from == "target" else ("source",),
        )

    def extract(self, inputs: Tensor) -> Tensor:
        """Return the backbone's features ``(B, D)`` for a batch of inputs.

        Inputs that are not of the backbone's input type are cached features, which only have to
        pass ``self.remaining_layers``.

        Raises:
            DataError: If they are images that have been scaled already.
        """
        if self.untouched(inputs):
            out: Tensor = self.backbone(self.normalise(inputs))
            return out
        if inputs.dim() == 4 and not self.remaining_layers:
            raise DataError(
                f"images must be uint8 (B, 3, H, W), got {inputs.dtype}; leave out ToDtype, "
                "ToTensor and Normalize, as the model scales and normalises its input"
            )
        out = inputs.contiguous(memory_format=self.layout) if inputs.dim() == 4 else inputs
        for group in self.remaining_layers:
            assert group.run is not None
            out = group.run(out)
        return out

    def untouched(self, inputs: Tensor) -> bool:
        """Return whether the inputs are raw samples rather than cached features."""
        return self.input_spec is None or bool(inputs.dtype == self.input_spec.dtype)

    # -- loaders of the user -----------------------------------------------------------------
    def training_batches(self, batch: Any) -> dict[str, Batch]:
        """Return a training batch by stream; those of any DataLoader are brought into that form.

        A batch is ``{"source": (inputs, labels), "target": inputs}``, which Lightning makes of
        ``train_dataloaders={"source": ..., "target": ...}``; a model that trains on one domain also
        takes ``(inputs, labels)``. Labels of the target are only kept for testing.
        """
        return batch if self._our_data() else training_batches(batch, self.train_on)

    def _eval_batch(self, batch: Any, key: SplitKey) -> Batch:
        if self._our_data():
            found: Batch = batch
            return found
        found = as_batch(batch)
        if key == ("target", "val"):
            found.pop("labels", None)
        return found

    def _our_data(self) -> bool:
        data = getattr(self._trainer, "datamodule", None)
        return self._trainer is None or isinstance(data, TransferDataModule)

    # -- training step -----------------------------------------------------------------------
    def network_inputs(self, batch: dict[str, Batch]) -> dict[Stream, Tensor]:
        """Return the network inputs of a training step by view.

        Few-shot target samples form a separate view, ``target_labelled``.
        """
        streams = (*map(Stream, self.train_on), Stream.TARGET_LABELLED)
        return {stream: batch[stream]["inputs"] for stream in streams if stream in batch}

    def views(self, batch: dict[str, Batch]) -> dict[str, View]:
        """Return features, logits and labels (if any) of each domain used for training."""
        inputs = self.network_inputs(batch)
        sizes = {stream: len(part) for stream, part in inputs.items()}
        parts: dict[Stream, Any] = {stream: batch.get(stream, {}) for stream in inputs}
        named = {stream: part.get("domain") for stream, part in parts.items()}
        if self.forward_mode == "joint" and len(inputs) > 1:
            self.set_batch_domains(sizes, named)
            features, logits = self.task(self.extract(joined([*inputs.values()])))
            counts = list(sizes.values())
            outputs = list(zip(features.split(counts), logits.split(counts), strict=True))
        else:
            outputs = [self._single_domain(one, part, named[one]) for one, part in inputs.items()]
        self.aux_labels = {
            stream: part["aux_labels"] for stream, part in parts.items() if "aux_labels" in part
        }
        optional = ("labels", "index", "domain")
        return {
            stream: View(features, logits, **{name: parts[stream].get(name) for name in optional})
            for stream, (features, logits) in zip(inputs, outputs, strict=True)
        }

    def _single_domain(
        self, stream: Stream, inputs: Tensor, named: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.set_batch_domains({stream: len(inputs)}, {stream: named})
        out: tuple[Tensor, Tensor] = self.task(self.extract(inputs))
        return out

    def set_batch_domains(
        self, sizes: Mapping[Stream, int], named: Mapping[Stream, Tensor | None] | None = None
    ) -> None:
        """Tell domain-specific layers which slice of the next batch belongs to which domain.

        Args:
            sizes: Number of samples by stream, in batch order.
            named: The entry ``domain`` of a batch by stream, see :class:`.Batch`.
        """
        domains = [(named or {}).get(stream) for stream in sizes]
        on_device = [None if one is None else one.to(self.device) for one in domains]
        assign_domains(self, [(stream.domain, size) for stream, size in sizes.items()], on_device)

    def task_terms(self, views: dict[str, View]) -> Terms:
        """Return the task's loss on every labelled view, and the regularization terms."""
        names = {"source": "task", "target_labelled": "task_labelled"}
        labelled = {stream: view for stream, view in views.items() if view.labels is not None}
        terms = {
            names[stream]: self.task.loss(view.logits, view.labels, view.weights)
            for stream, view in labelled.items()
            if view.labels is not None
        }
        terms = self.multitask.terms(terms, labelled, self.aux_labels)
        for regularizer in self.regularizers.values():
            terms.update(regularizer(views))
        return terms

    def forward(self, inputs: Tensor) -> Tensor:
        """Return class logits ``(B, K)`` for target inputs, such as uint8 images."""
        return self._single_domain(Stream.TARGET, inputs)[1]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step by its position in the run, so that resumed runs draw the same numbers."""
        self.means.begin()
        seed = mix(self.seed, self.current_epoch, batch_idx, self.global_rank)
        if self.device.type == "cpu":
            # torch.manual_seed also queues a seed call, with a traceback, for every device type
            # that is not initialised: a quarter of the time of a step on cached features.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        total = total_batches(self)
        done = self.trainer.num_training_batches * self.current_epoch + batch_idx
        self.batches = int(done)
        self.progress = min(1.0, done / total)

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> dict[str, Any]:
        """Return the sum of the loss terms."""
        batch = self.training_batches(batch)
        terms = self.losses(batch)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        size = len(next(iter(batch.values()))["index"])
        logged = {f"train/{name}": term.detach() for name, term in terms.items()}
        self._record({"train/loss": loss.detach(), **logged, **self.multitask.weights()}, size)
        self.terms_of_step = terms if self.multitask.projects else None
        return {"loss": loss, "terms": {name: term.detach() for name, term in terms.items()}}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass on the sum of the terms, or on each task separately (PCGrad)."""
        terms, self.terms_of_step = self.terms_of_step, None
        if not terms:
            super().backward(loss, *args, **kwargs)
            return
        shared = (self.backbone, self.task.head.bottleneck)
        seed = mix(self.seed, 5, self.batches)
        self.multitask.backward(terms, shared, self.parameters(), seed)

    def _record(self, values: dict[str, Any], size: int) -> None:
        self.means.add(values, size)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the epoch means with the last step, because logging every step is slow."""
        last = batch_idx + 1 == self.trainer.num_training_batches
        if last or self.global_step == self.trainer.max_steps:
            self.epoch_means = self.means.take()
            self._log_means()

    def _log_means(self) -> None:
        means, size = self.epoch_means
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)

    def on_train_start(self) -> None:
        """Log the means of an epoch that was interrupted before its validation."""
        if self.epoch_means[0]:
            self._log_means()

    # -- optimizer and phases ----------------------------------------------------------------
    def parameter_groups(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        """Return the parameters by group name, with each group's factor on ``lr``."""
        new = [*self.task.parameters(), *self.multitask.parameters()]
        return {**self.groups.of_backbone(), "head": (new, 1.0)}

    def configure_optimizers(self) -> Any:
        """Put every trainable parameter into a named group from the first step on."""
        return self.groups.optimizer(self.parameter_groups(), self.make_optimizer, self.trainer)

    def frozen_depth(self) -> int:
        """Return the number of layer groups, counted from the input, that are never trained."""
        return self.groups.frozen_depth()

    def enter_phase(self, epoch: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Unfreeze the layer groups of the current phase and freeze all others.

        Frozen layers have no gradient (so neither momentum nor weight decay changes them), are in
        evaluation mode and keep their buffers. The result depends only on the epoch.

        Args:
            epoch: Epoch number, from 0.
            groups: Parameter groups of the optimizer; other parameters are left unchanged.
        """
        phase = self.phases.at(epoch)
        for group in groups:
            trained = self.groups.is_trained(group["name"], phase)
            for parameter in group["params"]:
                parameter.requires_grad_(trained)
                if not trained:
                    parameter.grad = None
        frozen = self.groups.frozen_layers(phase)
        if not self.groups.is_trained("head", phase):
            frozen += [child for name, child in self.named_children() if name != "backbone"]
        self.frozen_modules = tuple(frozen)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; modules frozen in this phase stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen_modules:
            module.eval()
        return self

    # -- evaluation --------------------------------------------------------------------------
    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Update the metrics with a batch of one domain, labelled or unlabelled."""
        return self._evaluate(batch, SplitKey(DOMAINS[dataloader_idx], "val"))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Update the metrics with a batch of one domain; a target may be unlabelled."""
        return self._evaluate(batch, SplitKey(DOMAINS[dataloader_idx], "test"))

    def _evaluate(self, batch: Any, key: SplitKey) -> dict[str, Tensor]:
        batch = self._eval_batch(batch, key)
        named = batch.get("domain")
        features, logits = self._single_domain(Stream(key.domain), batch["inputs"], named)
        real = batch["index"] >= 0
        shared, features, logits = features[real], features[real].float(), logits[real].float()
        out = {"features": features, "logits": logits, "index": batch["index"][real]}
        if "labels" in batch:
            out["labels"] = batch["labels"][real]
        aux_labels = {k: values[real] for k, values in batch.get("aux_labels", {}).items()}
        rejected = self.task.rejects(features, logits) if key == ("target", "test") else None
        out |= {} if rejected is None else {"rejected": rejected}
        self.metrics.update(key, shared, logits, out.get("labels"), aux_labels, rejected)
        return out

    def on_validation_epoch_start(self) -> None:
        """Synchronise buffers, so that all ranks validate the same (possibly averaged) model."""
        same_buffers(self)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        for values in self.metrics.compute("val"):
            self.log_dict(values)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        for values in self.metrics.compute("test"):
            self.log_dict(values)

    # -- checkpoints -------------------------------------------------------------------------
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the progress, which adversarial terms depend on, and what rebuilds the model."""
        checkpoint |= {"progress": self.progress, "batches": self.batches}
        checkpoint["means"] = self.means.state_dict()
        # External files that the configuration refers to, such as a tokenizer.
        checkpoint["restored_by"] = getattr(self.backbone, "restored_by", {})
        checkpoint["input_state"] = dict(self.input_state)
        checkpoint["data"] = dict(self.data_state)
        checkpoint["epoch_means"] = list(self.epoch_means)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the progress and the epoch means."""
        self.progress, self.batches = checkpoint["progress"], checkpoint.get("batches", 0)
        self.means.load_state_dict(checkpoint["means"])
        if checkpoint.get("before_validation"):
            means, size = checkpoint["epoch_means"]
            self.epoch_means = (means, size)
