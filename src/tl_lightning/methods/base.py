"""What every adaptation method is: a module that turns views of the domains into loss terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tl_lightning.methods.components.gather import gathered
from tl_lightning.schedules import sigmoid_ramp
from tl_lightning.types import Context, Terms, View, Views

__all__ = ["Adapter", "Bank", "Penalty", "Ramp", "Stage"]

Ramp = Literal["none", "linear", "sigmoid"]


@dataclass(frozen=True)
class Stage:
    """One of the steps that a method takes in turn on every batch.

    Attributes:
        name: As the method finds it in ``ctx.stage``.
        repeats: How often, each time with a step of the optimizer.
        forward: Whether the pictures pass the network anew each time; False where the steps
            before changed nothing that the views depend on. The first stage's always do once.
        whole: Whether the task's terms and those of the other methods belong to this stage.
    """

    name: str
    repeats: int = 1
    forward: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Bank:
    """The whole target's training split as the model sees it at the start of an epoch.

    Attributes:
        features: ``(N, D)`` in float32, in evaluation mode.
        logits: ``(N, K)``, likewise.
    """

    features: Tensor
    logits: Tensor


class Adapter(nn.Module):
    """Base of the methods; knows no Lightning, no optimizer, no loader.

    A method implements :meth:`forward` and takes its knobs as required keyword arguments (the
    defaults live in its yaml). It is built as ``Foo(in_features=D, num_classes=K, **knobs)``.

    Args:
        in_features: Width ``D`` of the features in the views.
        num_classes: Width ``K`` of the logits in the views.
    """

    #: Further views: ``target_strong`` (the target's pictures, strongly changed) and
    #: ``target_labelled`` (its few labelled ones).
    needs: ClassVar[frozenset[str]] = frozenset()
    #: Which domains' views it reads.
    reads: ClassVar[frozenset[str]] = frozenset({"source", "target"})
    #: A second copy of the model that follows it: ``average`` over the steps, or ``frozen`` from
    #: ``twin_begins`` on.
    twin: ClassVar[Literal["average", "frozen"] | None] = None
    #: Roles whose views carry the twin's features and logits.
    twin_views: ClassVar[tuple[str, ...]] = ()
    #: Share of the run after which a frozen twin is taken.
    twin_begins: float = 0.0
    #: Weight of the old value in an averaging twin, a step.
    twin_momentum: float = 0.0
    #: Whether it adds terms to the loss; a method may only change the network.
    has_terms: ClassVar[bool] = True
    #: Whether it wants :meth:`begin_epoch` to be called.
    uses_bank: ClassVar[bool] = False
    #: Whether it takes turns, see :meth:`plan`.
    alternates: ClassVar[bool] = False
    #: Whether in some step some parameter that learns has no gradient (DDP must look for them).
    may_rest: ClassVar[bool] = False
    #: Whether it works on a trained model alone, and would keep the source from being learnt.
    source_free: ClassVar[bool] = False

    def __init__(self, *, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_classes = num_classes

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with the settings, a sentence each."""
        for name in ("weight", "max_lambda"):
            if knobs.get(name, 0) < 0:
                yield f"{where}.{name}={knobs[name]} is below 0; type {where}.{name}=1"

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the named loss terms of one step; they are added to the task's loss."""
        raise NotImplementedError

    def prepare(self, backbone: nn.Module, task: nn.Module) -> None:
        """Change the network before anything is built on it."""

    def plan(self) -> tuple[Stage, ...]:
        """Return the stages of every batch; none for a method whose terms are simply added."""
        return ()

    def begin_epoch(self, bank: Bank) -> None:
        """Look at the whole target before an epoch."""

    def strength(self, progress: float) -> float:
        """Return how hard the method pulls on the features at ``progress`` (0: not at all)."""
        return 1.0

    def task_weight(self, progress: float) -> float:
        """Return the factor on the task's loss on the source at ``progress``."""
        return 1.0

    def domain_logits(self, features: Tensor, logits: Tensor) -> Tensor | None:
        """Return the method's own domain scores ``(B,)`` (above 0: source), or None."""
        return None


class Penalty(Adapter):
    """A method that is one term, ``weight * ramp(p) * loss(views)``, computed in float32.

    Args:
        in_features: As in :class:`Adapter`.
        num_classes: As there.
        weight: Largest weight of the term; 0 leaves the training as it is without the method.
        ramp: How the weight comes in over the run: at once, linearly, or by :func:`sigmoid_ramp`.
        gather: Whether the batches of all ranks are one batch to the method.
    """

    def __init__(
        self, *, in_features: int, num_classes: int, weight: float, ramp: Ramp, gather: bool
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.weight = weight
        self.ramp = ramp
        self.gather = gather

    def strength(self, progress: float) -> float:
        """Return the weight at ``progress``."""
        ramps = {"none": 1.0, "linear": progress, "sigmoid": sigmoid_ramp(progress)}
        return self.weight * ramps[self.ramp]

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the unweighted term, a scalar."""
        raise NotImplementedError

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the weighted term under the method's name."""
        shown = {role: gathered(view) for role, view in views.items()} if self.gather else views
        weight = self.strength(ctx.progress)
        device = next(iter(views.values())).features.device.type
        with torch.autocast(device, enabled=False):
            value = self.loss({role: _exact(view) for role, view in shown.items()}, ctx)
        ctx.log("weight", weight)
        return {type(self).__name__.lower(): weight * value}


def _exact(view: View) -> View:
    """Return the view in float32: differences of near things are lost in bfloat16."""
    values = {name: value for name, value in vars(view).items() if isinstance(value, Tensor)}
    return View(**{k: v.float() if v.is_floating_point() else v for k, v in values.items()})
