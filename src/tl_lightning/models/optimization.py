"""Parameter groups of a model, and their learning rates in the phases of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tl_lightning.errors import DataError
from tl_lightning.models.phases import Phases
from tl_lightning.schedules import Schedule, TorchScheduler
from tl_lightning.types import LayerGroup

__all__ = ["OptimizerFactory", "ParameterGroups", "layer_groups_of", "total_batches"]

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]


def layer_groups_of(backbone: Any, chain: bool = False) -> list[LayerGroup]:
    """Return the layer groups of a backbone; a network that does not state any is one group."""
    if hasattr(backbone, "layer_groups"):
        groups: list[LayerGroup] = backbone.layer_groups(chain=chain)
        return groups
    return [LayerGroup("network", (backbone,), tuple(backbone.parameters()))]


def total_batches(module: L.LightningModule) -> float:
    """Return the number of batches in the run, as limited by epochs or steps.

    Raises:
        DataError: If the training loader has no length.
    """
    trainer = module.trainer
    per_epoch, steps = trainer.num_training_batches, trainer.max_steps
    if math.isinf(per_epoch):
        raise DataError(
            "the training loader has no length, which schedules need; set "
            "limit_train_batches=<number> in lightning.Trainer"
        )
    epochs = trainer.max_epochs
    total = math.inf if epochs in (None, -1) else float(per_epoch * epochs)
    if steps > 0 and module.automatic_optimization:
        # The last batch of an epoch always steps, even if the accumulation is incomplete.
        whole, rest = divmod(steps, math.ceil(per_epoch / trainer.accumulate_grad_batches))
        total = min(total, whole * per_epoch + rest * trainer.accumulate_grad_batches)
    return total


class ParameterGroups:
    """Named parameter groups: which are trained in each phase, and at which learning rate.

    The backbone is one group, or one per layer group if their rates differ or phases freeze some;
    all other parameters are new.

    Args:
        backbone: Its ``lr_factor`` is applied to all of its groups.
        phases: Layers to train in each phase.
        lr: Learning rate of new layers.
        schedule: Maps progress to a factor on every learning rate, or a scheduler of torch.
        layer_decay: Factor on the learning rate from one layer group to the one before it.
    """

    def __init__(
        self,
        backbone: Any,
        *,
        phases: Phases,
        lr: float,
        schedule: Schedule | TorchScheduler,
        layer_decay: float,
    ) -> None:
        self.backbone = backbone
        self.phases = phases
        self.lr = lr
        self.schedule = schedule
        self.layer_decay = layer_decay
        #: Trainable layer groups of each phase; ``head`` stands for all new layers.
        self.trained = phases.learning(layer_groups_of(backbone))

    @property
    def interval(self) -> str:
        """Whether the learning rates change after every ``step`` or every ``epoch``."""
        return self.schedule.interval if isinstance(self.schedule, TorchScheduler) else "step"

    def of_backbone(self) -> dict[str, tuple[Sequence[nn.Parameter], float]]:
        """Return the parameters of the backbone by group, with each group's factor on ``lr``."""
        factor, decay = getattr(self.backbone, "lr_factor", 1.0), self.layer_decay
        if not self.phases.steps and decay == 1.0:
            return {"backbone": (list(self.backbone.parameters()), factor)}
        layers = [group for group in layer_groups_of(self.backbone) if group.parameters]
        return {
            f"backbone.{group.name}": (group.parameters, factor * decay ** (len(layers) - 1 - k))
            for k, group in enumerate(layers)
        }

    def frozen_depth(self) -> int:
        """Return the number of layer groups, counted from the input, that are never trained."""
        trained = frozenset[str]().union(*self.trained)
        names = [group.name for group in layer_groups_of(self.backbone)]
        return next((k for k, name in enumerate(names) if name in trained), len(names))

    def is_trained(self, name: str, phase: int) -> bool:
        """Return whether a phase trains the parameter group of this name."""
        if name == "backbone":
            return True
        layer = name.removeprefix("backbone.")
        return (layer if layer != name else "head") in self.trained[phase]

    def frozen_layers(self, phase: int) -> list[nn.Module]:
        """Return the parts of the backbone that a phase keeps in evaluation mode."""
        names, layers = self.trained[phase], layer_groups_of(self.backbone)
        if not any(group.name in names for group in layers):
            return [self.backbone]
        return [m for group in layers if group.name not in names for m in group.modules]

    def optimizer(
        self,
        parameters: dict[str, tuple[Sequence[nn.Parameter], float]],
        make: OptimizerFactory,
        trainer: L.Trainer,
    ) -> Any:
        """Return what Lightning's ``configure_optimizers`` returns.

        Args:
            parameters: Parameters by group name, with each group's factor on ``lr``; those that
                are trainable now are in the optimizer from the first step on.
            make: Builds the optimizer from the groups.
            trainer: Asked for the length of the run when the first step is taken.
        """
        groups: list[dict[str, Any]] = []
        for name, (members, factor) in parameters.items():
            trainable = [p for p in members if p.requires_grad]
            if trainable:
                groups.append({"params": trainable, "lr": self.lr * factor, "name": name})
        optimizer = make(groups)
        if isinstance(self.schedule, TorchScheduler):
            scheduler = self.schedule.make(optimizer)
        else:
            factors = [self._factor(group["name"], trainer, self.schedule) for group in groups]
            scheduler = LambdaLR(optimizer, factors)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.interval},
        }

    def _factor(self, name: str, trainer: L.Trainer, schedule: Schedule) -> Callable[[int], float]:
        """Return a function from step to a group's learning-rate factor; 0 while it is frozen."""

        def factor(step: int) -> float:
            # Step 0 is evaluated while the optimizers are built; the estimate creates the loaders,
            # which in a resumed run must not happen before the position is restored.
            per_epoch, total = 1, 1.0
            if step:
                total = trainer.estimated_stepping_batches
                # The last batch of an epoch always steps, even if the accumulation is incomplete.
                per_epoch = math.ceil(
                    trainer.num_training_batches / trainer.accumulate_grad_batches
                )
            phase, progress = self.phases.place(step, per_epoch, total)
            if not self.is_trained(name, phase):
                return 0.0
            return self.phases.rate(phase, self.lr) * schedule(progress)

        return factor
