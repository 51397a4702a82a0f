"""Parameter groups, training phases, learning rates and the backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tl_lightning.models.phases import Phases
from tl_lightning.schedules import Schedule
from tl_lightning.tasks.classification import Classification
from tl_lightning.tasks.multitask import MultiTask
from tl_lightning.types import Terms
from tl_lightning.utils.seeding import mix

__all__ = ["Optimization", "OptimizerFactory"]

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]


class Optimization(L.LightningModule):
    """Base LightningModule with parameter groups, phases and learning-rate schedules."""

    backbone: Any  # both a Backbone and an nn.Module, which typing cannot express
    task: Classification
    multitask: MultiTask
    make_optimizer: OptimizerFactory
    lr: float
    schedule: Schedule
    phases: Phases
    #: Trainable layer groups of each phase; ``head`` stands for all new layers.
    trainable_groups: Sequence[frozenset[str]]
    layer_decay: float
    #: Modules that the current phase keeps in evaluation mode.
    frozen_modules: tuple[nn.Module, ...] = ()
    seed: int
    #: Number of completed batches in this run.
    batches: int
    #: Terms of the current step, set if the gradients of each task are needed separately.
    terms_of_step: Terms | None = None

    def parameter_groups(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        """Return the parameters by group name, with each group's factor on ``lr``."""
        new = [*self.task.parameters(), *self.multitask.parameters()]
        return {**self._backbone_groups(), "head": (new, 1.0)}

    def _backbone_groups(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        factor, decay = self.backbone.lr_factor, self.layer_decay
        if not self.phases.steps and decay == 1.0:
            return {"backbone": (list(self.backbone.parameters()), factor)}
        layers = [group for group in self.backbone.layer_groups() if group.parameters]
        return {
            f"backbone.{group.name}": (group.parameters, factor * decay ** (len(layers) - 1 - k))
            for k, group in enumerate(layers)
        }

    def frozen_depth(self) -> int:
        """Return the number of layer groups, counted from the input, that are never trained."""
        trained = frozenset[str]().union(*self.trainable_groups)
        names = [group.name for group in self.backbone.layer_groups()]
        return next((k for k, name in enumerate(names) if name in trained), len(names))

    def enter_phase(self, epoch: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Unfreeze the layer groups of the current phase and freeze all others.

        Frozen layers have no gradient (so neither momentum nor weight decay changes them), are in
        evaluation mode and keep their buffers. The result depends only on the epoch.

        Args:
            epoch: Epoch number, from 0.
            groups: Parameter groups of the optimizer; other parameters are left unchanged.
        """
        number = self.phases.at(epoch)
        for group in groups:
            trainable = self._is_trainable(group["name"], number)
            for parameter in group["params"]:
                parameter.requires_grad_(trainable)
                if not trainable:
                    parameter.grad = None
        names = self.trainable_groups[number]
        layers = self.backbone.layer_groups()
        frozen = [m for group in layers if group.name not in names for m in group.modules]
        if not any(group.name in names for group in layers):
            frozen = [self.backbone]
        if "head" not in names:
            frozen += [child for name, child in self.named_children() if name != "backbone"]
        self.frozen_modules = tuple(frozen)
        self.train()

    def _is_trainable(self, name: str, number: int) -> bool:
        if name == "backbone":
            return True
        layer = name.removeprefix("backbone.")
        return (layer if layer != name else "head") in self.trainable_groups[number]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; modules frozen in this phase stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen_modules:
            module.eval()
        return self

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass on the sum of the terms, or on each task separately (PCGrad)."""
        terms, self.terms_of_step = self.terms_of_step, None
        if not terms:
            super().backward(loss, *args, **kwargs)
            return
        modules: tuple[Any, ...] = (self.backbone, self.task.head.bottleneck)
        shared = [p for module in modules for p in module.parameters() if p.requires_grad]
        shared_ids = {id(p) for p in shared}
        own = [p for p in self.parameters() if p.requires_grad and id(p) not in shared_ids]
        self.multitask.backward(terms, shared, own, mix(self.seed, 5, self.batches))

    def batches_of_run(self) -> float:
        """Return the number of batches in the run, as limited by epochs or steps."""
        trainer = self.trainer
        per_epoch, steps = trainer.num_training_batches, trainer.max_steps
        epochs = trainer.max_epochs
        total = math.inf if epochs in (None, -1) else float(per_epoch * epochs)
        if steps > 0 and self.automatic_optimization:
            # The last batch of an epoch always steps, even if the accumulation is incomplete.
            whole, rest = divmod(steps, math.ceil(per_epoch / trainer.accumulate_grad_batches))
            total = min(total, whole * per_epoch + rest * trainer.accumulate_grad_batches)
        return total

    def configure_optimizers(self) -> Any:
        """Put every trainable parameter into a named group from the first step on."""
        groups: list[dict[str, Any]] = []
        for name, (parameters, factor) in self.parameter_groups().items():
            trainable = [p for p in parameters if p.requires_grad]
            if trainable:
                groups.append({"params": trainable, "lr": self.lr * factor, "name": name})
        optimizer = self.make_optimizer(groups)
        factors = [self._lr_factor(group["name"]) for group in groups]
        scheduler = {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _lr_factor(self, name: str) -> Callable[[int], float]:
        """Return a function from step to a group's learning-rate factor; 0 while it is frozen."""

        def factor(step: int) -> float:
            # Step 0 is evaluated while the optimizers are built; the estimate creates the loaders,
            # which in a resumed run must not happen before the position is restored.
            per_epoch, total = 1, 1.0
            if step:
                trainer = self.trainer
                total = trainer.estimated_stepping_batches
                # The last batch of an epoch always steps, even if the accumulation is incomplete.
                per_epoch = math.ceil(
                    trainer.num_training_batches / trainer.accumulate_grad_batches
                )
            number, progress = self.phases.place(step, per_epoch, total)
            if not self._is_trainable(name, number):
                return 0.0
            return self.phases.rate(number, self.lr) * self.schedule(progress)

        return factor
