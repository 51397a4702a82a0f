"""Base classes of the adaptation methods: modules that map views of the domains to loss terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tl_lightning.methods.components.gather import gathered
from tl_lightning.methods.components.target_bank import TargetBank
from tl_lightning.schedules import sigmoid_ramp
from tl_lightning.types import Context, Terms, View, Views

__all__ = ["Method", "Penalty", "Ramp", "Stage", "TargetBank"]

Ramp = Literal["none", "linear", "sigmoid"]


@dataclass(frozen=True)
class Stage:
    """One stage of an alternating method; every batch goes through all stages in order.

    Attributes:
        name: Name of the stage, passed to the method as ``ctx.stage``.
        repeats: Number of optimizer steps in this stage.
        forward: Whether to run the network again before each step; False if the preceding steps
            changed nothing that the views depend on. The first stage always runs it once.
        whole: Whether the task's terms and those of the other methods belong to this stage.
    """

    name: str
    repeats: int = 1
    forward: bool = True
    whole: bool = False


class Method(nn.Module):
    """Base class of the methods; independent of Lightning, optimizers and data loaders.

    A method implements :meth:`forward` and takes its parameters as required keyword arguments; the
    defaults are in its YAML file. It is built as ``Foo(in_features=D, num_classes=K, **params)``.

    Args:
        in_features: Width ``D`` of the features in the views.
        num_classes: Width ``K`` of the logits in the views.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"classification"})  # that it supports
    #: Additional views: ``target_strong`` (augmented), ``target_labelled`` (few-shot samples).
    extra_views: ClassVar[frozenset[str]] = frozenset()
    #: Domains whose views the method needs.
    required_domains: ClassVar[frozenset[str]] = frozenset({"source", "target"})
    #: Kind of teacher: ``average`` (moving average of the model) or ``frozen`` (a copy).
    teacher: ClassVar[Literal["average", "frozen"] | None] = None
    #: Views that include the teacher's features and logits.
    teacher_views: ClassVar[tuple[str, ...]] = ()
    #: Fraction of the run after which a frozen teacher is copied.
    teacher_start: float = 0.0
    #: Momentum of an averaging teacher per step.
    teacher_momentum: float = 0.0
    #: Whether the method adds loss terms; if not, it only changes the network.
    adds_loss: ClassVar[bool] = True
    #: Whether :meth:`begin_epoch` must be called with a target bank.
    uses_target_bank: ClassVar[bool] = False
    #: Whether the method alternates between stages, see :meth:`plan`.
    alternating: ClassVar[bool] = False
    #: Whether a trainable parameter may have no gradient in some step, which DDP must be told.
    find_unused_parameters: ClassVar[bool] = False
    #: Whether the method needs batch norm that uses and updates the statistics of batches.
    batch_statistics: ClassVar[bool] = False
    #: Smallest number of samples per domain in a batch that it can compare.
    smallest_batch: ClassVar[int] = 1
    #: Whether it compares the spans of features, which must be twice as many as the samples.
    compares_spans: ClassVar[bool] = False
    #: Whether its layers must measure training samples of each domain before training.
    measures_domains: ClassVar[bool] = False
    #: Whether the method needs to know which of several source domains each sample is from.
    uses_source_domains: ClassVar[bool] = False
    #: Whether the method adapts a trained model and cannot be combined with source training.
    source_free: ClassVar[bool] = False

    def __init__(self, *, in_features: int, num_classes: int) -> None:
        super().__init__()
        #: Name of its loss term; its key in the configuration if it is built from one.
        self.name = type(self).__name__.lower()
        self.in_features = in_features
        self.num_classes = num_classes

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield one message for each invalid setting."""
        for name in ("weight", "max_lambda"):
            if params.get(name, 0) < 0:
                yield f"{where}.{name}={params[name]} must be at least 0; set {where}.{name}=1"

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the named loss terms of one step; they are added to the task's loss."""
        raise NotImplementedError

    def modify_network(self, backbone: nn.Module, task: nn.Module) -> None:
        """Modify the network in place; called before the optimizer and the teacher are built."""

    def plan(self) -> tuple[Stage, ...]:
        """Return the stages of every batch; empty if the terms are simply added to the loss."""
        return ()

    def stage(self, ctx: Context) -> str:
        """Return the current stage of an alternating method.

        Raises:
            ValueError: If the context does not name a stage of :meth:`plan`.
        """
        names = [stage.name for stage in self.plan()]
        if ctx.stage not in names:
            raise ValueError(
                f"{type(self).__name__} alternates between stages, so every batch needs one "
                f"optimizer step per stage of plan() with Context(stage=...): {', '.join(names)}; "
                f"got {ctx.stage!r}"
            )
        return ctx.stage

    def begin_epoch(self, bank: TargetBank) -> None:
        """Process the target bank at the start of an epoch."""

    def strength(self, ctx: Context) -> float:
        """Return the effective weight of the method in this step; 0 means no effect."""
        return 1.0

    def task_weight(self, progress: float) -> float:
        """Return the factor on the task's source loss at ``progress``."""
        return 1.0

    def domain_logits(self, features: Tensor, logits: Tensor) -> Tensor | None:
        """Return the domain discriminator's logits ``(B,)`` (source if positive), or None."""
        return None


class Penalty(Method):
    """A method with a single term ``weight * ramp(p) * loss(views)``, computed in float32.

    Args:
        in_features: As in :class:`Method`.
        num_classes: As in :class:`Method`.
        weight: Maximum weight of the term; 0 is equivalent to training without the method.
        ramp: Ramp-up of the weight over the run: none, linear, or :func:`sigmoid_ramp`.
        gather: Whether to gather the batches of all ranks into one batch.
    """

    def __init__(
        self, *, in_features: int, num_classes: int, weight: float, ramp: Ramp, gather: bool
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.weight = weight
        self.ramp = ramp
        self.gather = gather

    def strength(self, ctx: Context) -> float:
        """Return the weight at ``ctx.progress``, times ``ctx.recovery``."""
        ramps = {"none": 1.0, "linear": ctx.progress, "sigmoid": sigmoid_ramp(ctx.progress)}
        return self.weight * ramps[self.ramp] * ctx.recovery

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the unweighted term, a scalar."""
        raise NotImplementedError

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the weighted term under the method's name."""
        inputs = {key: gathered(view) for key, view in views.items()} if self.gather else views
        weight = self.strength(ctx)
        device = next(iter(views.values())).features.device.type
        with torch.autocast(device, enabled=False):
            value = self.loss({stream: _to_float32(view) for stream, view in inputs.items()}, ctx)
        ctx.log("weight", weight)
        return {self.name: weight * value}


def _to_float32(view: View) -> View:
    """Return the view in float32, because small differences vanish in bfloat16."""
    values = {name: value for name, value in vars(view).items() if isinstance(value, Tensor)}
    return View(**{k: v.float() if v.is_floating_point() else v for k, v in values.items()})
