"""Which parts learn from which epoch on, and at which rate: a description that holds no state."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tl_lightning.errors import ConfigError, nearest
from tl_lightning.types import LayerGroup

__all__ = ["STEP_KEYS", "Phases", "epoch_of", "is_number", "resolved_steps"]

STEP_KEYS = ("from", "train", "lr", "lr_factor")


@dataclass(frozen=True)
class _Step:
    start: int
    train: tuple[str, ...]
    lr: float | None
    lr_factor: float | None


class Phases:
    r"""A run in phases, each with its own learning layers and its own rate.

    Phase :math:`i` holds from epoch :math:`f_i` to :math:`f_{i+1}`. With ``schedule="phase"`` the
    progress that the learning-rate schedule sees at optimizer step :math:`t`, of :math:`E` an
    epoch, is :math:`(t - E f_i) / (E f_{i+1} - E f_i)`; with ``"run"`` it is :math:`t / T`.

    Args:
        schedule: ``"phase"`` starts the schedule anew in every phase, ``"run"`` spans the run.
        steps: Mappings with ``from`` (first epoch, from 0 on), ``train`` (names, ``head``,
            ``backbone``, ``last:N``) and at most one of ``lr`` and ``lr_factor``; empty: everything
            learns all along.

    >>> phases = Phases(schedule="phase", steps=[{"from": 0, "train": ["head"]},
    ...                 {"from": 3, "train": ["head", "backbone"], "lr_factor": 0.1}])
    >>> [phases.at(epoch) for epoch in (0, 2, 3, 9)]
    [0, 0, 1, 1]
    >>> phases.place(step=8, per_epoch=2, total=10), phases.rate(1, lr=0.5)
    ((1, 0.5), 0.1)
    """

    def __init__(
        self, *, schedule: Literal["phase", "run"], steps: Sequence[Mapping[str, Any]]
    ) -> None:
        self.schedule = schedule
        self.steps = tuple(
            _Step(int(s["from"]), tuple(s["train"]), s.get("lr"), s.get("lr_factor")) for s in steps
        )
        self.starts = tuple(step.start for step in self.steps)

    def at(self, epoch: int) -> int:
        """Return the number, from 0, of the phase that an epoch belongs to."""
        return max(0, bisect_right(self.starts, epoch) - 1)

    def place(self, step: int, per_epoch: int, total: float) -> tuple[int, float]:
        """Return the phase of an optimizer step and the progress that its schedule sees.

        Args:
            step: Optimizer steps done.
            per_epoch: Optimizer steps an epoch.
            total: Optimizer steps of the run.
        """
        number = self.at(step // per_epoch)
        begin, end = 0.0, total
        if self.steps and self.schedule == "phase":
            begin = self.starts[number] * per_epoch
            if number + 1 < len(self.steps):
                end = min(total, self.starts[number + 1] * per_epoch)
        return number, min(1.0, (step - begin) / max(1.0, end - begin))

    def rate(self, number: int, lr: float) -> float:
        """Return the factor on ``lr`` in a phase."""
        if not self.steps:
            return 1.0
        step = self.steps[number]
        if step.lr is not None:
            return step.lr / lr
        return 1.0 if step.lr_factor is None else step.lr_factor

    def learning(self, groups: Sequence[LayerGroup]) -> list[frozenset[str]]:
        """Return for each phase the layer groups that learn, and ``head`` where new layers do.

        A group without parameters goes with the group before it: dropout behind a frozen layer
        rests as well.

        Args:
            groups: The backbone's, from input to output.

        Raises:
            ConfigError: If a step names no group of this backbone, or nothing that could learn.
        """
        if not self.steps:
            return [frozenset(("head", *(group.name for group in groups)))]
        holding = [group.name for group in groups if group.parameters]
        faults: list[str] = []
        found = []
        for number, step in enumerate(self.steps):
            names = set()
            for word in step.train:
                names |= _meant(word, [group.name for group in groups], holding)
                if not _known(word, groups):
                    faults.append(_unknown(number, word, groups))
            if not names & {"head", *holding} and not faults:
                faults.append(
                    f"phases.steps[{number}].train=[{','.join(step.train)}] holds no parameters, "
                    f"so nothing would learn; type head, or one of {', '.join(holding)}"
                )
            before = False
            for group in groups:
                if not group.parameters and before:
                    names.add(group.name)
                before = group.name in names
            found.append(frozenset(names))
        if faults:
            raise ConfigError(faults)
        return found


def _last(word: str) -> int | None:
    number = word.removeprefix("last:")
    return int(number) if word != number and number.isdigit() and int(number) else None


def _meant(word: str, names: list[str], holding: list[str]) -> set[str]:
    last = _last(word)
    if last is not None:
        return set(holding[-last:])
    return set(names) if word == "backbone" else {word}


def _known(word: str, groups: Iterable[LayerGroup]) -> bool:
    names = {"head", "backbone", *(group.name for group in groups)}
    return word in names or _last(word) is not None


def _unknown(number: int, word: str, groups: Iterable[LayerGroup]) -> str:
    names = [group.name for group in groups]
    hint = nearest(word, ["head", "backbone", *names])
    own = "" if hint.startswith("valid") else f" This backbone's are {', '.join(names)}."
    return (
        f"phases.steps[{number}].train has {word!r}, which is no layer group; {hint}{own} Type a "
        "name, head, backbone or last:N"
    )


def epoch_of(start: float, max_epochs: int) -> int:
    """Return the epoch that ``from`` means: itself, or that fraction of the run.

    A fraction falls neither on the first epoch nor beyond the last one.

    >>> epoch_of(3, 10), epoch_of(0.66, 10), epoch_of(0.1, 2), epoch_of(0.9, 2)
    (3, 7, 1, 1)
    """
    if isinstance(start, int):
        return start
    return max(1, min(round(start * max_epochs), max_epochs - 1))


def resolved_steps(steps: Sequence[Mapping[str, Any]], max_epochs: int) -> list[dict[str, Any]]:
    """Return the steps with whole epochs; of fractions on one epoch the last is kept.

    >>> resolved_steps([{"from": 0}, {"from": 0.1}, {"from": 0.2}], max_epochs=2)
    [{'from': 0}, {'from': 1}]
    """
    found = {epoch_of(step["from"], max_epochs): step for step in steps}
    return [{**step, "from": epoch} for epoch, step in found.items() if epoch < max_epochs]


def is_number(value: Any) -> bool:
    """Return whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
