"""What of a model learns, when, and at which rate."""

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
from tl_lightning.tasks.multitask import SeveralTasks
from tl_lightning.types import Terms
from tl_lightning.utils.seeding import mix

__all__ = ["Learning", "OptimizerFactory"]

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]


class Learning(L.LightningModule):
    """The part of a model that knows its parameter groups, its phases and its rates."""

    backbone: Any  # a Backbone that is an nn.Module, which types cannot say
    task: Classification
    others: SeveralTasks
    make_optimizer: OptimizerFactory
    lr: float
    schedule: Schedule
    phases: Phases
    #: For each phase what learns in it: layer groups, and ``head`` for all new layers.
    learns: Sequence[frozenset[str]]
    layer_decay: float
    #: What the current phase keeps in evaluation mode.
    resting: tuple[nn.Module, ...] = ()
    seed: int
    #: Batches done in this run.
    batches: int
    #: The step's terms, where each task's gradients are wanted by themselves.
    terms_of_step: Terms | None = None

    def parameter_groups(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        """Return every parameter once, by group name, with the group's factor on ``lr``."""
        new = [*self.task.parameters(), *self.others.parameters()]
        return {**self._backbone_groups(), "head": (new, 1.0)}

    def _backbone_groups(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        factor, decay = self.backbone.lr_factor, self.layer_decay
        if not self.phases.steps and decay == 1.0:
            return {"backbone": (list(self.backbone.parameters()), factor)}
        holding = [group for group in self.backbone.layer_groups() if group.parameters]
        return {
            f"backbone.{group.name}": (group.parameters, factor * decay ** (len(holding) - 1 - k))
            for k, group in enumerate(holding)
        }

    def frozen_depth(self) -> int:
        """Return how many of the backbone's layer groups, from the input on, never learn."""
        ever = frozenset[str]().union(*self.learns)
        names = [group.name for group in self.backbone.layer_groups()]
        return next((k for k, name in enumerate(names) if name in ever), len(names))

    def enter_phase(self, epoch: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Let learn what the epoch's phase names, and freeze the rest.

        Frozen means no gradient (so that neither momentum nor weight decay moves it), evaluation
        mode, and buffers that stay. A pure function of the epoch.

        Args:
            epoch: Counted from 0.
            groups: The optimizer's; what is in none of them never learns, and stays as it is.
        """
        number = self.phases.at(epoch)
        for group in groups:
            learns = self._group_learns(group["name"], number)
            for parameter in group["params"]:
                parameter.requires_grad_(learns)
                if not learns:
                    parameter.grad = None
        now = self.learns[number]
        layers = self.backbone.layer_groups()
        resting = [m for group in layers if group.name not in now for m in group.modules]
        if not any(group.name in now for group in layers):
            resting = [self.backbone]
        if "head" not in now:
            resting += [child for name, child in self.named_children() if name != "backbone"]
        self.resting = tuple(resting)
        self.train()

    def _group_learns(self, name: str, number: int) -> bool:
        own = name.removeprefix("backbone.")
        return name == "backbone" or (own if own != name else "head") in self.learns[number]

    def train(self, mode: bool = True) -> Self:
        """Switch everything but what the current phase freezes."""
        super().train(mode)
        for module in self.resting:
            module.eval()
        return self

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go back through the sum, or through one task after the other where that is asked for."""
        terms, self.terms_of_step = self.terms_of_step, None
        if not terms:
            super().backward(loss, *args, **kwargs)
            return
        parts: tuple[Any, ...] = (self.backbone, self.task.head.bottleneck)
        shared = [p for part in parts for p in part.parameters() if p.requires_grad]
        known = {id(p) for p in shared}
        own = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        self.others.backward(terms, shared, own, mix(self.seed, 5, self.batches))

    def batches_of_run(self) -> float:
        """Return how many batches the whole run shows, whether epochs or steps end it."""
        trainer = self.trainer
        each, steps, epochs = trainer.num_training_batches, trainer.max_steps, trainer.max_epochs
        total = math.inf if epochs in (None, -1) else float(each * epochs)
        if steps > 0 and self.automatic_optimization:
            # An epoch's last batch steps even where it ends no full accumulation.
            whole, rest = divmod(steps, math.ceil(each / trainer.accumulate_grad_batches))
            total = min(total, whole * each + rest * trainer.accumulate_grad_batches)
        return total

    def configure_optimizers(self) -> Any:
        """Put every parameter that may learn into a named group from the first step on."""
        groups: list[dict[str, Any]] = []
        for name, (parameters, share) in self.parameter_groups().items():
            learning = [p for p in parameters if p.requires_grad]
            if learning:
                groups.append({"params": learning, "lr": self.lr * share, "name": name})
        optimizer = self.make_optimizer(groups)
        factors = [self._factor(group["name"]) for group in groups]
        rate = {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": rate}

    def _factor(self, name: str) -> Callable[[int], float]:
        """Return the factor on a group's rate, by the step; 0 while the group is frozen."""

        def factor(step: int) -> float:
            # Asked for late: the estimate makes the loaders, and a resumed run must know its place
            # by then, which it does not yet while the optimizers are made (step 0).
            per_epoch, total = 1, 1.0
            if step:
                trainer = self.trainer
                total = trainer.estimated_stepping_batches
                # An epoch's last batch steps even where it ends no full accumulation.
                per_epoch = math.ceil(
                    trainer.num_training_batches / trainer.accumulate_grad_batches
                )
            number, progress = self.phases.place(step, per_epoch, total)
            if not self._group_learns(name, number):
                return 0.0
            return self.phases.rate(number, self.lr) * self.schedule(progress)

        return factor
