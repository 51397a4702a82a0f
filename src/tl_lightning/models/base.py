"""Base LightningModule: training step, metrics and checkpoint state shared by all models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tl_lightning.distributed.ranks import same_buffers
from tl_lightning.losses.regularizers import Regularizer
from tl_lightning.models.epoch_means import EpochMeans
from tl_lightning.models.inputs import Normalise, joined
from tl_lightning.models.optimization import Optimization, OptimizerFactory
from tl_lightning.models.phases import Phases
from tl_lightning.schedules import Schedule
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask
from tl_lightning.tasks.classification import Classification
from tl_lightning.tasks.loss_weighting import TaskWeighting
from tl_lightning.tasks.multitask import MultiTask, of_all_ranks
from tl_lightning.tasks.unlabelled_metrics import UnlabelledScores
from tl_lightning.types import Backbone, Batch, LayerGroup, Terms, View
from tl_lightning.utils.seeding import mix

__all__ = ["DOMAINS", "TransferModule"]

DOMAINS = ("source", "target")


class TransferModule(Optimization):
    """A backbone and a task with the training loop; subclasses implement :meth:`losses`.

    Args:
        name: Name of the model in reports.
        backbone: Maps normalised images to features.
        task: Maps features to logits and loss.
        optimizer: Builds the optimizer from named parameter groups with their learning rates.
        lr: Learning rate of new layers; that of the backbone is ``lr * backbone.lr_factor``.
        schedule: Maps progress to a factor on every learning rate.
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
    #: Whether the set of trainable layers may change from phase to phase.
    takes_phases: ClassVar[bool] = True

    def __init__(
        self,
        *,
        name: str,
        backbone: Backbone,
        task: Classification,
        optimizer: OptimizerFactory,
        lr: float,
        schedule: Schedule,
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
        assert isinstance(backbone, nn.Module)
        self.name = name
        self.backbone = backbone
        self.task = task
        self.regularizers = nn.ModuleDict(regularizers)
        self.make_optimizer = optimizer
        self.lr = lr
        self.schedule = schedule
        self.phases = phases
        self.trainable_groups = phases.learning(backbone.layer_groups())
        self.layer_decay = layer_decay
        self.seed = seed
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.progress = 0.0
        self.batches = 0
        #: Layer groups that cached features still have to pass, see :meth:`extract`.
        self.remaining_layers: tuple[LayerGroup, ...] = ()
        #: How samples are converted to inputs, see ``TransferDataModule.learned``.
        self.inputs: dict[str, Any] = {}
        self.means = EpochMeans()
        #: Means of the finished epoch, and their number of samples.
        self.epoch_means: tuple[dict[str, float], int] = ({}, 0)
        # Only plain dicts, lists and numbers, so that checkpoints load with weights_only=True.
        self.save_hyperparameters(saved)
        self.normalise = Normalise(backbone.input_spec, self.layout)
        stages = [f"{role}_{stage}" for role in DOMAINS for stage in ("val", "test")]
        self.scores = nn.ModuleDict(
            {name: task.metrics(prefix=name.replace("_", "/") + "/") for name in stages}
        )
        self.multitask = MultiTask(tasks=aux_tasks, task_weighting=task_weighting, stages=stages)
        #: Stages whose batches had labels, on any rank.
        self.scored: set[str] = set()
        #: Auxiliary labels of the step by role; not part of the views, which methods can read.
        self.aux_labels: dict[str, dict[str, Tensor]] = {}
        self.unlabelled = UnlabelledScores(task.num_classes)

    # -- overridden by subclasses ------------------------------------------------------------
    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the named loss terms of one training step; their sum is minimised."""
        raise NotImplementedError

    def extract(self, inputs: Tensor) -> Tensor:
        """Return the backbone's features ``(B, D)`` for a batch of inputs.

        Inputs that are not of the backbone's input type are cached features, which only have to
        pass ``self.remaining_layers``.
        """
        if self.untouched(inputs):
            out: Tensor = self.backbone(self.normalise(inputs))
            return out
        out = inputs.contiguous(memory_format=self.layout) if inputs.dim() == 4 else inputs
        for group in self.remaining_layers:
            assert group.run is not None
            out = group.run(out)
        return out

    def untouched(self, inputs: Tensor) -> bool:
        """Return whether the inputs are raw samples rather than cached features."""
        return bool(inputs.dtype == self.backbone.input_spec.dtype)

    # -- training step -----------------------------------------------------------------------
    def network_inputs(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        """Return the network inputs of a training step by view.

        Few-shot target samples form a separate view, ``target_labelled``.
        """
        roles = (*self.train_on, "target_labelled")
        return {role: batch[role]["inputs"] for role in roles if role in batch}

    def views(self, batch: dict[str, Batch]) -> dict[str, View]:
        """Return features, logits and labels (if any) of each domain used for training."""
        inputs = self.network_inputs(batch)
        sizes = {role: len(part) for role, part in inputs.items()}
        if self.forward_mode == "joint" and len(inputs) > 1:
            self.set_batch_domains(sizes)
            features, logits = self.task(self.extract(joined([*inputs.values()])))
            counts = list(sizes.values())
            outputs = list(zip(features.split(counts), logits.split(counts), strict=True))
        else:
            outputs = [self._single_domain(role, part) for role, part in inputs.items()]
        parts: dict[str, Any] = {role: batch.get(role, {}) for role in inputs}
        self.aux_labels = {
            role: part["aux_labels"] for role, part in parts.items() if "aux_labels" in part
        }
        return {
            role: View(features, logits, parts[role].get("labels"), parts[role].get("index"))
            for role, (features, logits) in zip(inputs, outputs, strict=True)
        }

    def _single_domain(self, role: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        self.set_batch_domains({role: len(inputs)})
        out: tuple[Tensor, Tensor] = self.task(self.extract(inputs))
        return out

    def set_batch_domains(self, sizes: Mapping[str, int]) -> None:
        """Tell domain-specific layers which slice of the next batch belongs to which domain.

        Args:
            sizes: Number of samples by role, in batch order.
        """

    def task_terms(self, views: dict[str, View]) -> Terms:
        """Return the task's loss on every labelled view, and the regularization terms."""
        names = {"source": "task", "target_labelled": "task_labelled"}
        labelled = {role: view for role, view in views.items() if view.labels is not None}
        terms = {
            names[role]: self.task.loss(view.logits, view.labels)
            for role, view in labelled.items()
            if view.labels is not None
        }
        terms = self.multitask.terms(terms, labelled, self.aux_labels)
        for regularizer in self.regularizers.values():
            terms.update(regularizer(views))
        return terms

    def forward(self, inputs: Tensor) -> Tensor:
        """Return class logits ``(B, K)`` for target inputs, such as uint8 images."""
        return self._single_domain("target", inputs)[1]

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
        done = self.trainer.num_training_batches * self.current_epoch + batch_idx
        self.batches = int(done)
        self.progress = min(1.0, done / self.batches_of_run())

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> dict[str, Any]:
        """Return the sum of the loss terms."""
        terms = self.losses(batch)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        size = len(next(iter(batch.values()))["index"])
        logged = {f"train/{name}": term.detach() for name, term in terms.items()}
        self._record({"train/loss": loss.detach(), **logged, **self.multitask.weights()}, size)
        self.terms_of_step = terms if self.multitask.projects else None
        return {"loss": loss, "terms": {name: term.detach() for name, term in terms.items()}}

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

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Update the metrics with a batch of one domain, labelled or unlabelled."""
        return self._evaluate(batch, DOMAINS[dataloader_idx], "val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Update the metrics with a labelled batch of one domain."""
        return self._evaluate(batch, DOMAINS[dataloader_idx], "test")

    def _evaluate(self, batch: Batch, role: str, stage: str) -> dict[str, Tensor]:
        features, logits = self._single_domain(role, batch["inputs"])
        real = batch["index"] >= 0
        shared, features, logits = features[real], features[real].float(), logits[real].float()
        out = {"features": features, "logits": logits, "index": batch["index"][real]}
        if "labels" in batch:
            labels = batch["labels"][real]
            out["labels"] = labels
            # Even if this rank has no labelled sample, because all ranks reduce together.
            self.scored.add(f"{role}_{stage}")
            if len(labels):
                self._scores(role, stage).update(logits, labels)
            aux_labels = {k: values[real] for k, values in batch.get("aux_labels", {}).items()}
            self.multitask.update(f"{role}_{stage}", shared, labels, aux_labels)
        if role == "target" and stage == "val":
            self.unlabelled.update(logits)
        return out

    def _scores(self, role: str, stage: str) -> MetricCollection:
        metrics = self.scores[f"{role}_{stage}"]
        assert isinstance(metrics, MetricCollection)
        return metrics

    def on_validation_epoch_start(self) -> None:
        """Synchronise buffers, so that all ranks validate the same (possibly averaged) model."""
        same_buffers(self)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_scores("val")
        if self.unlabelled.update_called:
            for name, value in self.unlabelled.compute().items():
                self.log(f"target/val/{name}", value)
        self.unlabelled.reset()

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        for role in DOMAINS:
            metrics, name = self._scores(role, stage), f"{role}_{stage}"
            if name in self.scored:
                self.log_dict(of_all_ranks(metrics))
            metrics.reset()
            self.scored.discard(name)
            self.log_dict(self.multitask.results(name))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the progress, which adversarial terms depend on, and what rebuilds the model."""
        checkpoint["progress"] = self.progress
        checkpoint["means"] = self.means.state_dict()
        # External files that the configuration refers to, such as a tokenizer.
        checkpoint["restored_by"] = getattr(self.backbone, "restored_by", {})
        checkpoint["inputs"] = self.inputs
        checkpoint["ended"] = list(self.epoch_means)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the progress and the epoch means."""
        self.progress = float(checkpoint["progress"])
        self.means.load_state_dict(checkpoint.get("means", {}))
        if checkpoint.get("before_validation"):
            means, size = checkpoint["ended"]
            self.epoch_means = (means, size)
