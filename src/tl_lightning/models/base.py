"""The loop that every model shares: the step, the metrics, the parameter groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tl_lightning.distributed.ranks import same_buffers
from tl_lightning.losses.regularizers import Regularizer
from tl_lightning.models.epoch_means import Means
from tl_lightning.models.inputs import Normalise, joined
from tl_lightning.models.optimization import Learning, OptimizerFactory
from tl_lightning.models.phases import Phases
from tl_lightning.schedules import Schedule
from tl_lightning.tasks.auxiliary.base import FurtherTask
from tl_lightning.tasks.classification import Classification
from tl_lightning.tasks.loss_weighting import Balance
from tl_lightning.tasks.multitask import SeveralTasks, of_all_ranks
from tl_lightning.tasks.unlabelled_metrics import UnlabelledScores
from tl_lightning.types import Backbone, Batch, LayerGroup, Terms, View
from tl_lightning.utils.seeding import mix

__all__ = ["DOMAINS", "TransferModule"]

DOMAINS = ("source", "target")


class TransferModule(Learning):
    """A backbone, a task and the loop around them; a model says only which losses it has.

    Args:
        name: What reports call this model.
        backbone: From normalised pictures to features.
        task: From features to logits and loss.
        optimizer: Builds the optimizer from named parameter groups with their learning rates.
        lr: Learning rate of new layers; the backbone learns at ``lr * backbone.lr_factor``.
        schedule: From progress to a factor on every learning rate.
        phases: Which layers learn from which epoch on.
        layer_decay: Layer group ``k`` of the ``n`` that hold parameters learns at ``lr *
            backbone.lr_factor * layer_decay ** (n - 1 - k)`` (Clark et al., "ELECTRA", ICLR 2020).
        seed: The run's seed, for the random numbers of each step.
        channels_last: Whether pictures are laid out with channels last (faster for convolutions).
        regularizers: Further terms by name, added to every step's loss.
        tasks: Further tasks by name, on the features that the task's classifier sees.
        balance: How their losses come together with the task's.
        saved: Plain values that a checkpoint needs to rebuild itself: ``config``, ``classes``.
    """

    #: Domains whose batches the training step takes.
    train_on: ClassVar[tuple[str, ...]] = ("source",)
    #: Whose labels teach it; ``target`` only for an upper bound, marked wherever it stands.
    learn_from: ClassVar[str] = "source"
    #: ``joint`` puts all domains through the backbone in one batch, ``separate`` one by one.
    forward_mode: Literal["joint", "separate"] = "joint"
    #: Whether what learns may change from phase to phase.
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
        tasks: dict[str, FurtherTask],
        balance: Balance,
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
        self.learns = phases.learning(backbone.layer_groups())
        self.layer_decay = layer_decay
        self.seed = seed
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.progress = 0.0
        self.batches = 0
        #: What features that stand for pictures still have to pass, see :meth:`extract`.
        self.rest: tuple[LayerGroup, ...] = ()
        #: How the data's samples became inputs, see ``TransferData.learned``.
        self.inputs: dict[str, Any] = {}
        self.means = Means()
        #: Means of the epoch whose batches are done, and their number of samples.
        self.ended: tuple[dict[str, float], int] = ({}, 0)
        # Plain dicts, lists and numbers only: a checkpoint loads under weights_only=True.
        self.save_hyperparameters(saved)
        self.normalise = Normalise(backbone.input_spec, self.layout)
        stages = [f"{role}_{stage}" for role in DOMAINS for stage in ("val", "test")]
        self.scores = nn.ModuleDict(
            {name: task.metrics(prefix=name.replace("_", "/") + "/") for name in stages}
        )
        self.others = SeveralTasks(tasks=tasks, balance=balance, stages=stages)
        #: Stages whose batches held labels, on whichever rank.
        self.scored: set[str] = set()
        #: Further labels of the step, by role: apart from the views, which adapters read.
        self.further: dict[str, dict[str, Tensor]] = {}
        self.unlabelled = UnlabelledScores(task.num_classes)

    # -- what a model says -------------------------------------------------------------------
    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the named loss terms of one training step; their sum is minimised."""
        raise NotImplementedError

    def extract(self, inputs: Tensor) -> Tensor:
        """Return the backbone's features ``(B, D)`` of a batch's inputs.

        Anything but its input's own type comes from the feature cache and has passed the layers
        before ``self.rest`` already.
        """
        if self.untouched(inputs):
            out: Tensor = self.backbone(self.normalise(inputs))
            return out
        out = inputs.contiguous(memory_format=self.layout) if inputs.dim() == 4 else inputs
        for group in self.rest:
            assert group.run is not None
            out = group.run(out)
        return out

    def untouched(self, inputs: Tensor) -> bool:
        """Whether these are samples, not stored features of theirs."""
        return bool(inputs.dtype == self.backbone.input_spec.dtype)

    # -- what every model shares -------------------------------------------------------------
    def pictures(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        """Return what passes the network in a training step, by the view that it makes.

        The few labelled pictures of a target are a view of their own, ``target_labelled``.
        """
        roles = (*self.train_on, "target_labelled")
        return {role: batch[role]["inputs"] for role in roles if role in batch}

    def views(self, batch: dict[str, Batch]) -> dict[str, View]:
        """Return features, logits and, where there are any, labels of each domain that trains."""
        pictures = self.pictures(batch)
        sizes = {role: len(part) for role, part in pictures.items()}
        if self.forward_mode == "joint" and len(pictures) > 1:
            self.attend(sizes)
            features, logits = self.task(self.extract(joined([*pictures.values()])))
            counts = list(sizes.values())
            parts = list(zip(features.split(counts), logits.split(counts), strict=True))
        else:
            parts = [self._separate(role, part) for role, part in pictures.items()]
        whole: dict[str, Any] = {role: batch.get(role, {}) for role in pictures}
        self.further = {role: part["others"] for role, part in whole.items() if "others" in part}
        return {
            role: View(features, logits, whole[role].get("labels"), whole[role].get("index"))
            for role, (features, logits) in zip(pictures, parts, strict=True)
        }

    def _separate(self, role: str, pictures: Tensor) -> tuple[Tensor, Tensor]:
        self.attend({role: len(pictures)})
        out: tuple[Tensor, Tensor] = self.task(self.extract(pictures))
        return out

    def attend(self, sizes: Mapping[str, int]) -> None:
        """Hear whose pictures pass the network next: for networks that tell domains apart.

        Args:
            sizes: Number of pictures by role, in the order of the batch.
        """

    def task_terms(self, views: dict[str, View]) -> Terms:
        """Return the task's loss on every view that has labels, and the regularisers' terms."""
        names = {"source": "task", "target_labelled": "task_labelled"}
        labelled = {role: view for role, view in views.items() if view.labels is not None}
        terms = {
            names[role]: self.task.loss(view.logits, view.labels)
            for role, view in labelled.items()
            if view.labels is not None
        }
        terms = self.others.terms(terms, labelled, self.further)
        for regularizer in self.regularizers.values():
            terms.update(regularizer(views))
        return terms

    def forward(self, inputs: Tensor) -> Tensor:
        """Return class logits ``(B, K)`` of the target's inputs, such as pictures as uint8."""
        return self._separate("target", inputs)[1]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed this step by its place in the run, so that a resumed run draws the same numbers."""
        self.means.begin()
        seed = mix(self.seed, self.current_epoch, batch_idx, self.global_rank)
        if self.device.type == "cpu":
            # torch.manual_seed also notes, with a traceback each time, what every kind of device
            # would have to do once it is used: a quarter of a step on stored features.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        done = self.trainer.num_training_batches * self.current_epoch + batch_idx
        self.batches = int(done)
        self.progress = min(1.0, done / self.batches_of_run())

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> dict[str, Any]:
        """Add up the loss terms."""
        terms = self.losses(batch)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        size = len(next(iter(batch.values()))["index"])
        shown = {f"train/{name}": term.detach() for name, term in terms.items()}
        self._record({"train/loss": loss.detach(), **shown, **self.others.weights()}, size)
        self.terms_of_step = terms if self.others.projects else None
        return {"loss": loss, "terms": {name: term.detach() for name, term in terms.items()}}

    def _record(self, values: dict[str, Any], size: int) -> None:
        self.means.add(values, size)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the epoch's means with its last step: logging every step would cost more than it."""
        last = batch_idx + 1 == self.trainer.num_training_batches
        if last or self.global_step == self.trainer.max_steps:
            self.ended = self.means.take()
            self._log_means()

    def _log_means(self) -> None:
        means, size = self.ended
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)

    def on_train_start(self) -> None:
        """Log what an epoch that was cut before its validation had logged."""
        if self.ended[0]:
            self._log_means()

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Score a batch of one domain: by its labels where it has any, else without."""
        return self._evaluate(batch, DOMAINS[dataloader_idx], "val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Score a batch of one domain by its labels."""
        return self._evaluate(batch, DOMAINS[dataloader_idx], "test")

    def _evaluate(self, batch: Batch, role: str, stage: str) -> dict[str, Tensor]:
        features, logits = self._separate(role, batch["inputs"])
        real = batch["index"] >= 0
        shared, features, logits = features[real], features[real].float(), logits[real].float()
        out = {"features": features, "logits": logits, "index": batch["index"][real]}
        if "labels" in batch:
            labels = batch["labels"][real]
            out["labels"] = labels
            # Also where this rank has none of them: all ranks sum up together.
            self.scored.add(f"{role}_{stage}")
            if len(labels):
                self._scores(role, stage).update(logits, labels)
            others = {k: values[real] for k, values in batch.get("others", {}).items()}
            self.others.update(f"{role}_{stage}", shared, labels, others)
        if role == "target" and stage == "val":
            self.unlabelled.update(logits)
        return out

    def _scores(self, role: str, stage: str) -> MetricCollection:
        metrics = self.scores[f"{role}_{stage}"]
        assert isinstance(metrics, MetricCollection)
        return metrics

    def on_validation_epoch_start(self) -> None:
        """Let all ranks score one model, after any average has taken its place."""
        same_buffers(self)

    def on_validation_epoch_end(self) -> None:
        """Log what the epoch's validation gave."""
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
            self.log_dict(self.others.results(name))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store this run's progress, which adversarial terms depend on, and what rebuilds it."""
        checkpoint["progress"] = self.progress
        checkpoint["means"] = self.means.state_dict()
        # What a configuration only names and a checkpoint should not depend on: a tokenizer, ...
        checkpoint["restored_by"] = getattr(self.backbone, "restored_by", {})
        checkpoint["inputs"] = self.inputs
        checkpoint["ended"] = list(self.ended)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the stored progress."""
        self.progress = float(checkpoint["progress"])
        self.means.load_state_dict(checkpoint.get("means", {}))
        if checkpoint.get("before_validation"):
            means, size = checkpoint["ended"]
            self.ended = (means, size)
