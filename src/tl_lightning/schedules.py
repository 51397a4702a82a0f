"""Schedules as pure functions of the progress ``p``, the completed fraction of the run in [0, 1].

The learning-rate schedules multiply each group's base learning rate; :func:`sigmoid_ramp` weights
adversarial terms. None of them counts iterations, so a longer run stretches the schedule instead of
ending it early; only :func:`ramp_progress` can tie a ramp to a number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Constant",
    "Cosine",
    "DannAnnealing",
    "Schedule",
    "Step",
    "TorchScheduler",
    "ramp_progress",
    "recovered",
    "sigmoid_ramp",
]


class Schedule:
    """Base class of callables that map progress in [0, 1] to a learning-rate factor."""

    def __call__(self, progress: float) -> float:
        """Return the factor at ``progress``."""
        raise NotImplementedError


@dataclass(frozen=True)
class TorchScheduler:
    """A scheduler of ``torch.optim.lr_scheduler`` in place of a :class:`Schedule`.

    Attributes:
        make: Builds the scheduler from the optimizer.
        interval: Whether it steps after every ``epoch`` or after every optimizer ``step``.
    """

    make: Callable[[Any], Any]
    interval: Literal["epoch", "step"] = "epoch"


def sigmoid_ramp(progress: float, gain: float = 10.0) -> float:
    """Return ``2 / (1 + exp(-gain p)) - 1``, the ramp of Ganin et al. (2016), JMLR 17(59), sec. 5.

    With the paper's gain of 10 it is close to 1 from the middle of the run; a gain of 1 would only
    reach 0.46.

    >>> sigmoid_ramp(0.0), round(sigmoid_ramp(1.0), 4), round(sigmoid_ramp(1.0, gain=1.0), 2)
    (0.0, 0.9999, 0.46)
    """
    return 2.0 / (1.0 + math.exp(-gain * progress)) - 1.0


def ramp_progress(progress: float, step: int, steps: int | None) -> float:
    """Return the progress of a ramp: that of the run, or ``min(1, step / steps)``.

    A short run passes through a ramp over the run in a few steps. Over ``steps=10_000``, a
    :func:`sigmoid_ramp` with a gain of 10 is ``2 / (1 + exp(-i / 1000)) - 1`` at step ``i``, as in
    the authors' code of CDAN (Long et al. 2018).

    Args:
        progress: Completed fraction of the run.
        step: Number of completed batches in the run.
        steps: Number of batches after which the ramp ends, or None for the length of the run.

    >>> ramp_progress(0.5, 123, None), ramp_progress(0.5, 123, 10_000), ramp_progress(1.0, 20, 10)
    (0.5, 0.0123, 1.0)
    """
    return progress if steps is None else min(1.0, step / steps)


def recovered(step: int, since: tuple[int, int] | None) -> float:
    """Return the factor on the strength of the methods after a roll-back, 1 if there was none.

    ``sin(pi t / (2 T))`` after ``t`` of ``T`` steps, then 1: the ramp of SSRT (Sun et al. 2022,
    CVPR, arXiv:2204.07683).

    Args:
        step: Number of completed batches in the run.
        since: Their number at the roll-back, and ``T``.

    >>> [round(recovered(step, (100, 10)), 3) for step in (100, 105, 110, 200)], recovered(7, None)
    ([0.0, 0.707, 1.0, 1.0], 1.0)
    """
    if since is None or step - since[0] >= since[1]:
        return 1.0
    return math.sin(0.5 * math.pi * (step - since[0]) / since[1])


def _warmup_factor(progress: float, warmup: float) -> float:
    return 1.0 if warmup <= 0 else min(1.0, progress / warmup)


class Constant(Schedule):
    """Constant rate after a linear warm-up over the fraction ``warmup`` of the run."""

    def __init__(self, *, warmup: float) -> None:
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        """Return the factor at ``progress``."""
        return _warmup_factor(progress, self.warmup)


class Cosine(Schedule):
    """Cosine decay from 1 to ``final`` (Loshchilov and Hutter 2017) after a linear warm-up.

    >>> schedule = Cosine(warmup=0.0, final=0.0)
    >>> schedule(0.0), round(schedule(0.5), 3), schedule(1.0)
    (1.0, 0.5, 0.0)
    """

    def __init__(self, *, warmup: float, final: float) -> None:
        self.warmup = warmup
        self.final = final

    def __call__(self, progress: float) -> float:
        """Return the factor at ``progress``."""
        if progress < self.warmup:
            return _warmup_factor(progress, self.warmup)
        p = (progress - self.warmup) / max(1e-12, 1.0 - self.warmup)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, p)))


class Step(Schedule):
    """Step decay: multiply by ``gamma`` at each of the ``milestones`` (fractions of the run).

    >>> schedule = Step(warmup=0.0, milestones=[0.5, 0.75], gamma=0.1)
    >>> [round(schedule(p), 3) for p in (0.0, 0.6, 0.8)]
    [1.0, 0.1, 0.01]
    """

    def __init__(self, *, warmup: float, milestones: list[float], gamma: float) -> None:
        self.warmup = warmup
        self.milestones = milestones
        self.gamma = gamma

    def __call__(self, progress: float) -> float:
        """Return the factor at ``progress``."""
        passed = sum(progress >= milestone for milestone in self.milestones)
        return float(_warmup_factor(progress, self.warmup) * self.gamma**passed)


class DannAnnealing(Schedule):
    """Annealing ``(1 + alpha p)^-beta`` of Ganin et al. (2016), with alpha 10 and beta 0.75.

    >>> schedule = DannAnnealing(warmup=0.0, alpha=10.0, beta=0.75)
    >>> schedule(0.0), round(schedule(1.0), 3)
    (1.0, 0.166)
    """

    def __init__(self, *, warmup: float, alpha: float, beta: float) -> None:
        self.warmup = warmup
        self.alpha = alpha
        self.beta = beta

    def __call__(self, progress: float) -> float:
        """Return the factor at ``progress``."""
        factor: float = (1.0 + self.alpha * progress) ** -self.beta
        return _warmup_factor(progress, self.warmup) * factor
