"""LightningModules for domain adaptation and source-free adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.errors import DataError
from tl_lightning.methods.base import Method, Stage, TargetBank
from tl_lightning.methods.components.alignment import FeatureAlignment
from tl_lightning.methods.components.class_sets import RecognisesUnknown, WeighsClasses
from tl_lightning.methods.components.relative_norm import RelativeBatchNorm
from tl_lightning.models.base import TransferModule
from tl_lightning.models.teacher import Teacher
from tl_lightning.models.whole_outputs import of_each_batch, source_temperature, whole_outputs
from tl_lightning.schedules import recovered
from tl_lightning.types import Batch, Context, Stream, Terms, View

__all__ = ["DomainAdaptation", "SourceFree"]


class DomainAdaptation(TransferModule):
    """Trains on the labelled source and adapts to the unlabelled target with one or more methods.

    If a method alternates between stages, every batch takes one optimizer step per stage with
    manual optimization; otherwise one step minimises the sum of all terms.

    Args:
        methods: The methods by name; their terms are added up. If empty, the target only affects
            the batch norm statistics of joint batches.
        forward: ``joint`` passes both domains through the backbone in one batch with shared batch
            norm statistics; ``separate`` passes them one after the other.
        kwargs: As in :class:`TransferModule`.
    """

    train_on: ClassVar[tuple[str, ...]] = ("source", "target")

    def __init__(
        self,
        *,
        methods: dict[str, Method],
        forward: Literal["joint", "separate"],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, method in methods.items():
            method.name = name
        #: The methods by name; a ModuleDict, typed as a mapping of its values.
        self.methods: Mapping[str, Method] = cast(Any, nn.ModuleDict(methods))
        self.forward_mode = forward
        #: Additional views requested by the methods.
        self.extra_views = frozenset[str]().union(*(one.extra_views for one in methods.values()))
        plans = {name: one.plan() for name, one in methods.items() if one.plan()}
        self.planner, self.stages = next(iter(plans.items()), ("", ()))
        self.automatic_optimization = not self.stages
        if recognising := [one for one in methods.values() if isinstance(one, RecognisesUnknown)]:
            self.task.recogniser = (recognising[0],)
        teachers = [one for one in methods.values() if one.teacher is not None]
        self.teacher = _make_teacher(teachers[0], self.backbone, self.task) if teachers else None
        self.teacher_views = teachers[0].teacher_views if teachers else ()
        #: The last epoch whose target classes were predicted, and the classes ``(N,)``.
        self.predicted: tuple[int, Tensor] | None = None
        #: Whether the head was fitted to labels before the first epoch.
        self.fitted_head = False
        #: Whether the current step has no loss terms.
        self.idle = False
        #: Batch from which the methods regain their strength after a roll-back, and for how many.
        self.regained: tuple[int, int] | None = None

    def needs(self) -> ModelNeeds:
        """Ask for strongly augmented views as well if a method uses them."""
        return replace(super().needs(), strong=Stream.TARGET_STRONG in self.extra_views)

    def parameter_groups(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        """Add the methods' own parameters, with the learning rate of new layers."""
        own = {name: (list(m.parameters()), 1.0) for name, m in self.methods.items()}
        return {**super().parameter_groups(), **own}

    def regain(self, first: int, steps: int) -> None:
        """Let the methods regain their strength from 0, over ``steps`` batches from ``first``."""
        self.regained = (first, steps)

    # -- views ---------------------------------------------------------------------------------
    def network_inputs(self, batch: dict[str, Batch]) -> dict[Stream, Tensor]:
        """Add the strongly augmented target images if a method requests them."""
        inputs = super().network_inputs(batch)
        if Stream.TARGET_STRONG in self.extra_views:
            if "strong" not in batch["target"]:
                raise DataError(
                    "the method needs strongly augmented target images: a target batch of "
                    '{"inputs": ..., "strong": ...}, or a data module of this framework'
                )
            inputs[Stream.TARGET_STRONG] = batch["target"]["strong"]
        return inputs

    def views(self, batch: dict[str, Batch]) -> dict[str, View]:
        """Add the weights of source samples, and the teacher's outputs that a method requests."""
        views = super().views(batch)
        for method in self.methods.values():
            if isinstance(method, WeighsClasses):
                source = views["source"]
                source.weights = method.source_weights(source.require("labels"))
        if self.teacher is not None and self.teacher.taken:
            for stream in self.teacher_views:
                view = views[stream]
                outputs = self._teacher_outputs(Stream(stream), batch[stream])
                view.teacher_features, view.teacher_logits = outputs
        return views

    @torch.no_grad()
    def _teacher_outputs(self, stream: Stream, batch: Batch) -> tuple[Tensor, Tensor]:
        assert self.teacher is not None
        inputs = batch["inputs"]
        self.set_batch_domains({stream: len(inputs)}, {stream: batch.get("domain")})
        # Inputs that are not raw are cached features of a frozen backbone.
        raw = self.untouched(inputs)
        features = self.teacher.backbone(self.normalise(inputs)) if raw else inputs
        out: tuple[Tensor, Tensor] = self.teacher.task(features)
        return out

    # -- training step -------------------------------------------------------------------------
    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the task's source loss and the methods' terms."""
        return self.terms(self.views(batch), None)

    def terms(self, views: dict[str, View], stage: Stage | None) -> Terms:
        """Return the terms of a stage, or all terms if ``stage`` is None."""
        whole = stage is None or stage.whole
        terms = self.task_terms(views) if whole else {}
        size = len(next(iter(views.values())).logits)
        for name, method in self.methods.items():
            if name != self.planner and not whole:
                continue
            for key in self.multitask.source_terms:
                if key in terms:
                    terms[key] = terms[key] * method.task_weight(self.progress)
            diagnostics: dict[str, Any] = {}
            ctx = Context(
                self.progress,
                self.batches,
                diagnostics.__setitem__,
                self.task.head.classifier,
                stage.name if stage is not None and name == self.planner else "",
                recovered(self.batches, self.regained),
            )
            # After the task's terms, so that random draws in the method do not affect them.
            terms.update(method(views, ctx))
            self._record({f"{name}/{key}": value for key, value in diagnostics.items()}, size)
        self.idle = not terms and whole
        if self.idle:  # the forward pass only updates batch norm statistics
            terms["nothing"] = next(iter(views.values())).logits.sum() * 0.0
        return terms

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> dict[str, Any]:
        """Minimise the sum of the loss terms, or run the stages of an alternating method."""
        if self.automatic_optimization:
            return super().training_step(batch, batch_idx)
        batch = self.training_batches(batch)
        optimizer: Any = self.optimizers()
        views: dict[str, View] | None = None
        logged: Terms = {}
        for stage in self.stages:
            for _ in range(stage.repeats):
                if views is None or stage.forward:
                    views = self.views(batch)
                terms = self.terms(views, stage)
                if not terms:
                    continue
                # With gradients of None, the optimizer skips parameters that this stage leaves out.
                optimizer.zero_grad(set_to_none=True)
                self.manual_backward(torch.stack([t.float() for t in terms.values()]).sum())
                optimizer.step()
                if self.teacher is not None:
                    self.teacher.after_step(self.backbone, self.task)
                logged |= {name: term.detach() for name, term in terms.items()}
        if self.groups.interval == "step" or self.trainer.is_last_batch:
            scheduler: Any = self.lr_schedulers()
            scheduler.step()
        loss = torch.stack([term.float() for term in logged.values()]).sum()
        size = len(next(iter(batch.values()))["index"])
        self._record({"train/loss": loss, **{f"train/{k}": v for k, v in logged.items()}}, size)
        return {"loss": loss, "terms": logged}

    # -- measured statistics -------------------------------------------------------------------
    @property
    def unmeasured(self) -> bool:
        """Whether a layer still has to measure the domains."""
        return not all(norm.measured for norm in self.relative_norms().values())

    def mark_measured(self) -> None:
        """Let the layers, and those of the teacher, use what was measured from now on."""
        for norm in self.relative_norms().values():
            norm.finish()
        if self.teacher is not None:
            self.teacher.copy(self.backbone, self.task)

    def relative_norms(self) -> dict[str, RelativeBatchNorm]:
        """Return the layers of the backbone that measure the domains, by name."""
        named = self.backbone.named_modules()
        return {name: part for name, part in named if isinstance(part, RelativeBatchNorm)}

    @torch.no_grad()
    def measure(self, data: Any) -> None:
        """Let the layers measure the domains on training samples, without labels.

        Args:
            data: A data module with ``whole_loader(domain, count)``.

        Raises:
            DataError: If it has no such method.
        """
        norms = self.relative_norms().values()
        count = max(norm.samples for norm in norms)
        for domain in (Stream.SOURCE, Stream.TARGET):
            for norm in norms:
                norm.measure(domain.domain)
            self._passed(domain, data, count)
        self.mark_measured()

    @property
    def alignment(self) -> FeatureAlignment | None:
        """The map of the target's features before the head, if there is one."""
        found = getattr(self.task.head, "alignment", None)
        return found if isinstance(found, FeatureAlignment) else None

    @torch.no_grad()
    def align(self, data: Any) -> None:
        """Fit the map of the target's features to training samples, without labels.

        Args:
            data: A data module with ``whole_loader(domain, count)``.

        Raises:
            DataError: If it has no such method.
        """
        assert self.alignment is not None
        found = [
            self._passed(domain, data, self.alignment.samples).float().cpu().numpy()
            for domain in (Stream.SOURCE, Stream.TARGET)
        ]
        self.alignment.fit(*found)
        if self.teacher is not None:
            self.teacher.copy(self.backbone, self.task)

    def _passed(self, domain: Stream, data: Any, count: int) -> Tensor:
        """Return the features ``(count, D)`` of training samples, in evaluation mode."""
        if not hasattr(data, "whole_loader"):
            names = ",".join(name for name, one in self.methods.items() if one.measures_domains)
            raise DataError(
                f"method=[{names}] measures both domains before training; pass a datamodule with "
                "whole_loader(domain, count), see docs/bring_your_own.md#lightningdatamodule"
            )
        training, found = self.training, []
        self.train(False)
        for batch in data.whole_loader(domain.domain, count):
            self.set_batch_domains({domain: len(batch["inputs"])}, {domain: batch.get("domain")})
            found.append(self.backbone(self.normalise(batch["inputs"].to(self.device))))
        self.train(training)
        return torch.cat(found)

    def on_fit_start(self) -> None:
        """Measure the domains unless this has been done, or the run is resumed."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.trainer.ckpt_path is None:
            self.predicted = None
            with self.trainer.precision_plugin.forward_context():
                if self.unmeasured:
                    self.measure(data)
                if self.alignment is not None and not self.alignment.measured:
                    self.align(data)
        if isinstance(data, TransferDataModule):
            data.predicted = self.target_classes
            for method in self.methods.values():
                if isinstance(method, WeighsClasses) and (counts := data.class_counts()):
                    balanced = data.sampling == "class_balanced"
                    counts = [min(1, count) for count in counts] if balanced else counts
                    method.class_counts = torch.tensor(counts)

    def on_fit_end(self) -> None:
        """Release the data module, which another model may train on."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if isinstance(data, TransferDataModule):
            data.predicted = None

    # -- teacher and target bank -----------------------------------------------------------------
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Copy a frozen teacher once its start has been reached."""
        super().on_train_batch_start(batch, batch_idx)
        if self.teacher is not None:
            self.teacher.before_step(self.backbone, self.task, self.progress)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Set zero gradients to None, so that momentum and weight decay do not change weights."""
        if self.idle:
            optimizer.zero_grad(set_to_none=True)
        elif any(one.task_weight(self.progress) == 0 for one in self.methods.values()):
            for parameter in self.task.parameters():
                if parameter.grad is not None and not parameter.grad.any():
                    parameter.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the teacher before a checkpoint may be written."""
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:
            self.teacher.after_step(self.backbone, self.task)

    def on_train_epoch_start(self) -> None:
        """Pass the target bank to the methods that use it."""
        if methods := [method for method in self.methods.values() if method.uses_target_bank]:
            bank = self._target_bank()
            if any(isinstance(method, WeighsClasses) for method in methods):
                bank = replace(bank, temperature=source_temperature(self))
            for method in methods:
                method.begin_epoch(bank)

    def target_classes(self, epoch: int) -> NDArray[np.int64]:
        """Return the classes ``(N,)`` that the model predicts for the target at an epoch's start.

        They are computed once per epoch and stored in checkpoints, so that an epoch that was
        interrupted continues with the same ones. All ranks get those of rank 0.
        """
        if self.predicted is None or self.predicted[0] != epoch:
            outputs = of_each_batch(self, Stream.TARGET, lambda _, logits: logits.argmax(1).cpu())
            found = torch.cat(outputs)
            self.predicted = epoch, self.trainer.strategy.broadcast(found)
        classes: NDArray[np.int64] = self.predicted[1].numpy()
        return classes

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the predicted classes of the epoch."""
        super().on_save_checkpoint(checkpoint)
        if self.predicted is not None:
            checkpoint["predicted"] = list(self.predicted)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the predicted classes of the epoch."""
        super().on_load_checkpoint(checkpoint)
        if "predicted" in checkpoint:
            epoch, classes = checkpoint["predicted"]
            self.predicted = int(epoch), classes

    def _target_bank(self) -> TargetBank:
        """Run the model on the target training split in evaluation mode."""
        trained = self.fitted_head or self.current_epoch > 0
        return TargetBank(*whole_outputs(self, Stream.TARGET), trained=trained)


class SourceFree(DomainAdaptation):
    """Adapts a trained model using only the unlabelled target."""

    train_on: ClassVar[tuple[str, ...]] = ("target",)


def _make_teacher(method: Method, backbone: nn.Module, task: nn.Module) -> Teacher:
    assert method.teacher is not None
    return Teacher(
        backbone,
        task,
        kind=method.teacher,
        begins=method.teacher_start,
        momentum=method.teacher_momentum,
    )
