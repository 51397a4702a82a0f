"""Models that adapt to a target; their adapters say how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tl_lightning.distributed.ranks import same_buffers
from tl_lightning.methods.base import Adapter, Bank, Stage
from tl_lightning.methods.components.domain_norm import DomainBatchNorm, attend
from tl_lightning.models.base import TransferModule
from tl_lightning.models.teacher import Twin
from tl_lightning.types import Batch, Context, Terms, View

__all__ = ["DomainAdaptation", "SourceFree"]


class DomainAdaptation(TransferModule):
    """Learns from the labelled source and aligns the unlabelled target by its adapters.

    Where an adapter has a plan of alternating stages, every batch takes one step of the optimizer a
    stage (the one place with manual optimisation); else one step minimises the sum of all terms.

    Args:
        adapters: The methods by name; their terms add up. None at all leaves joint batches: batch
            norm sees both domains, and nothing else happens to the target.
        forward: ``joint`` puts both domains through the backbone in one batch (batch norm
            sees both), ``separate`` one after the other.
        kwargs: As in :class:`TransferModule`.
    """

    train_on: ClassVar[tuple[str, ...]] = ("source", "target")

    def __init__(
        self,
        *,
        adapters: dict[str, Adapter],
        forward: Literal["joint", "separate"],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.adapters = nn.ModuleDict(adapters)
        self.forward_mode = forward
        self.methods = dict(adapters)
        #: Further views that the adapters ask for.
        self.needs = frozenset[str]().union(*(one.needs for one in adapters.values()))
        plans = {name: one.plan() for name, one in adapters.items() if one.plan()}
        self.planner, self.stages = next(iter(plans.items()), ("", ()))
        self.automatic_optimization = not self.stages
        twins = [one for one in adapters.values() if one.twin is not None]
        self.twin = _twin_of(twins[0], self.backbone, self.task) if twins else None
        self.twin_views = twins[0].twin_views if twins else ()
        #: Whether nothing is to learn from the step's batch.
        self.idle = False
        self.norms = [part for part in self.modules() if isinstance(part, DomainBatchNorm)]

    def parameter_groups(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        """Add the adapters' own parameters, at the rate of new layers."""
        own = {name: (list(m.parameters()), 1.0) for name, m in self.adapters.items()}
        return {**super().parameter_groups(), **own}

    # -- views ---------------------------------------------------------------------------------
    def pictures(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        """Add the target's strongly changed pictures where a method asks for them."""
        found = super().pictures(batch)
        if "target_strong" in self.needs:
            found["target_strong"] = batch["target"]["strong"]
        return found

    def attend(self, sizes: Mapping[str, int]) -> None:
        """Let every part of the batch be normalised by its own domain's batch norm."""
        attend(self.norms, [(role.partition("_")[0], size) for role, size in sizes.items()])

    def views(self, batch: dict[str, Batch]) -> dict[str, View]:
        """Add the twin's features and logits to the views that a method asks for."""
        views = super().views(batch)
        if self.twin is not None and self.twin.taken:
            for role in self.twin_views:
                view = views[role]
                view.twin_features, view.twin_logits = self._by_twin(role, batch[role]["inputs"])
        return views

    @torch.no_grad()
    def _by_twin(self, role: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        assert self.twin is not None
        self.attend({role: len(inputs)})
        # What is not uint8 comes from the feature cache, which holds a frozen backbone's features.
        pictures = self.untouched(inputs)
        features = self.twin.backbone(self.normalise(inputs)) if pictures else inputs
        out: tuple[Tensor, Tensor] = self.twin.task(features)
        return out

    # -- the step ------------------------------------------------------------------------------
    def losses(self, batch: dict[str, Batch]) -> Terms:
        """Return the task's loss on the source and the adapters' terms."""
        return self.terms(self.views(batch), None)

    def terms(self, views: dict[str, View], stage: Stage | None) -> Terms:
        """Return the terms of a stage; of everything where no method has any."""
        whole = stage is None or stage.whole
        terms = self.task_terms(views) if whole else {}
        size = len(next(iter(views.values())).logits)
        for name, adapter in self.methods.items():
            if name != self.planner and not whole:
                continue
            for key in [key for key in terms if key == "task" or key.startswith("task/")]:
                terms[key] = terms[key] * adapter.task_weight(self.progress)
            diagnostics: dict[str, Any] = {}
            ctx = Context(
                self.progress,
                self.batches,
                diagnostics.__setitem__,
                self.task.head.classifier,
                stage.name if stage is not None and name == self.planner else "",
            )
            # After the task, so that random numbers drawn here leave the rest of the step alone.
            terms.update(adapter(views, ctx))
            self._record({f"{name}/{key}": value for key, value in diagnostics.items()}, size)
        self.idle = not terms and whole
        if self.idle:  # the pictures pass for the sake of batch norm alone
            terms["nothing"] = next(iter(views.values())).logits.sum() * 0.0
        return terms

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> dict[str, Any]:
        """Add up the loss terms, or take the stages one by one."""
        if self.automatic_optimization:
            return super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        views: dict[str, View] | None = None
        shown: Terms = {}
        for stage in self.stages:
            for _ in range(stage.repeats):
                if views is None or stage.forward:
                    views = self.views(batch)
                terms = self.terms(views, stage)
                if not terms:
                    continue
                # What a stage's terms do not reach has no gradient, so the optimizer skips it.
                optimizer.zero_grad(set_to_none=True)
                self.manual_backward(torch.stack([t.float() for t in terms.values()]).sum())
                optimizer.step()
                if self.twin is not None:
                    self.twin.after_step(self.backbone, self.task)
                shown |= {name: term.detach() for name, term in terms.items()}
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        loss = torch.stack([term.float() for term in shown.values()]).sum()
        size = len(next(iter(batch.values()))["index"])
        self._record({"train/loss": loss, **{f"train/{k}": v for k, v in shown.items()}}, size)
        return {"loss": loss, "terms": shown}

    # -- what follows the model ------------------------------------------------------------------
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Take the twin where its time has come."""
        super().on_train_batch_start(batch, batch_idx)
        if self.twin is not None:
            self.twin.before_step(self.backbone, self.task, self.progress)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Keep decay and momentum from moving what no term moves: gradients of 0 would not."""
        if self.idle:
            optimizer.zero_grad(set_to_none=True)
        elif any(one.task_weight(self.progress) == 0 for one in self.methods.values()):
            for parameter in self.task.parameters():
                if parameter.grad is not None and not parameter.grad.any():
                    parameter.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the twin follow at once: a checkpoint may be written right after."""
        super().optimizer_step(*args, **kwargs)
        if self.twin is not None:
            self.twin.after_step(self.backbone, self.task)

    def on_train_epoch_start(self) -> None:
        """Show the whole target to methods that want to see it."""
        wanting = [one for one in self.methods.values() if one.uses_bank]
        if wanting:
            bank = self._bank()
            for adapter in wanting:
                adapter.begin_epoch(bank)

    def _bank(self) -> Bank:
        """Run the model over the target's training split, in evaluation mode."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        training = self.training
        same_buffers(self)
        self.eval()
        parts = []
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in data.whole_loader("target"):
                parts.append(self._separate("target", batch["inputs"].to(self.device)))
        self.train(training)
        features, logits = (torch.cat(part).float() for part in zip(*parts, strict=True))
        return Bank(features, logits)


class SourceFree(DomainAdaptation):
    """Adapts a trained model with the unlabelled target alone; no source picture trains."""

    train_on: ClassVar[tuple[str, ...]] = ("target",)


def _twin_of(adapter: Adapter, backbone: nn.Module, task: nn.Module) -> Twin:
    assert adapter.twin is not None
    return Twin(
        backbone,
        task,
        kind=adapter.twin,
        begins=adapter.twin_begins,
        momentum=adapter.twin_momentum,
    )
