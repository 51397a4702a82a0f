"""Training phases: trainable layers and learning rate by epoch, as a stateless description."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.types import LayerGroup

__all__ = ["Phases", "epoch_of", "resolved_steps"]

STEP_KEYS = ("from", "train", "lr", "lr_factor")


@dataclass(frozen=True)
class _Step:
    start: int
    train: tuple[str, ...]
    lr: float | None
    lr_factor: float | None


class Phases:
    r"""A run divided into phases, each with its own trainable layers and learning rate.

    Phase :math:`i` lasts from epoch :math:`f_i` to :math:`f_{i+1}`. With ``schedule="phase"``, the
    progress passed to the learning-rate schedule at optimizer step :math:`t`, with :math:`E` steps
    per epoch, is :math:`(t - E f_i) / (E f_{i+1} - E f_i)`; with ``"run"`` it is :math:`t / T`.

    Args:
        schedule: ``"phase"`` restarts the schedule in every phase, ``"run"`` spans the whole run.
        steps: Mappings with ``from`` (first epoch, from 0), ``train`` (layer names, ``head``,
            ``backbone``, ``last:N``) and at most one of ``lr`` and ``lr_factor``. If empty,
            everything is trained for the whole run.

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

    @classmethod
    def check_run(cls, where: str, params: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
        """Yield what can be found without the backbone; it is asked for layer names later."""
        steps = run.steps
        if not steps:
            return
        yield from _step_problems(steps, run.trainer.max_epochs, run.lr)
        if not run.model.cls.takes_phases:
            yield (
                f"model={run.name} never trains its backbone, but phases.steps has "
                f"{len(steps)} step(s); set phases=none or model=fine_tuning"
            )

    def at(self, epoch: int) -> int:
        """Return the index of the phase that an epoch belongs to."""
        return max(0, bisect_right(self.starts, epoch) - 1)

    def place(self, step: int, per_epoch: int, total: float) -> tuple[int, float]:
        """Return the phase of an optimizer step and the progress for its schedule.

        Args:
            step: Number of completed optimizer steps.
            per_epoch: Optimizer steps per epoch.
            total: Optimizer steps in the run.
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
        """Return the trainable layer groups of each phase; ``head`` stands for new layers.

        A group without parameters follows the group before it, so that dropout after a frozen layer
        is also in evaluation mode.

        Args:
            groups: Layer groups of the backbone, from input to output.

        Raises:
            ConfigError: If a step names an unknown layer group, or has no trainable parameters.
        """
        if not self.steps:
            return [frozenset(("head", *(group.name for group in groups)))]
        with_parameters = [group.name for group in groups if group.parameters]
        problems: list[str] = []
        trainable = []
        for number, step in enumerate(self.steps):
            names = set()
            for entry in step.train:
                names |= _expand(entry, [group.name for group in groups], with_parameters)
                if not _is_known(entry, groups):
                    problems.append(_unknown_message(number, entry, groups))
            if not names & {"head", *with_parameters} and not problems:
                problems.append(
                    f"phases.steps[{number}].train=[{','.join(step.train)}] has no parameters, so "
                    f"nothing would be trained; use head, or one of {', '.join(with_parameters)}"
                )
            previous = False
            for group in groups:
                if not group.parameters and previous:
                    names.add(group.name)
                previous = group.name in names
            trainable.append(frozenset(names))
        if problems:
            raise ConfigError(problems)
        return trainable


def _last_count(entry: str) -> int | None:
    number = entry.removeprefix("last:")
    return int(number) if entry != number and number.isdigit() and int(number) else None


def _expand(entry: str, names: list[str], with_parameters: list[str]) -> set[str]:
    count = _last_count(entry)
    if count is not None:
        return set(with_parameters[-count:])
    return set(names) if entry == "backbone" else {entry}


def _is_known(entry: str, groups: Iterable[LayerGroup]) -> bool:
    names = {"head", "backbone", *(group.name for group in groups)}
    return entry in names or _last_count(entry) is not None


def _unknown_message(number: int, entry: str, groups: Iterable[LayerGroup]) -> str:
    names = [group.name for group in groups]
    hint = nearest(entry, ["head", "backbone", *names])
    available = "" if hint.startswith("valid") else f" (layer groups: {', '.join(names)})"
    return (
        f"phases.steps[{number}].train: {entry!r} is not a layer group of this backbone; "
        f"{hint}{available}; use layer group names, head, backbone or last:N"
    )


def epoch_of(start: float, max_epochs: int) -> int:
    """Return the epoch for a value of ``from``, which is an epoch or a fraction of the run.

    A fraction is never mapped to the first epoch or beyond the last one.

    >>> epoch_of(3, 10), epoch_of(0.66, 10), epoch_of(0.1, 2), epoch_of(0.9, 2)
    (3, 7, 1, 1)
    """
    if isinstance(start, int):
        return start
    return max(1, min(round(start * max_epochs), max_epochs - 1))


def resolved_steps(steps: Sequence[Mapping[str, Any]], max_epochs: int) -> list[dict[str, Any]]:
    """Return the steps with fractions resolved to epochs; of steps at one epoch, keep the last.

    >>> resolved_steps([{"from": 0}, {"from": 0.1}, {"from": 0.2}], max_epochs=2)
    [{'from': 0}, {'from': 1}]
    """
    by_epoch = {epoch_of(step["from"], max_epochs): step for step in steps}
    return [{**step, "from": epoch} for epoch, step in by_epoch.items() if epoch < max_epochs]


def _step_problems(
    steps: Sequence[Mapping[str, Any]], max_epochs: int | None, lr: float
) -> Iterator[str]:
    """Yield the problems of the steps.

    Args:
        steps: The configured ``phases.steps``.
        max_epochs: ``trainer.max_epochs``.
        lr: Learning rate of new layers, which ``lr`` of a step replaces.
    """
    if max_epochs is None or max_epochs < 1:
        yield (
            f"phases need a fixed number of epochs, but trainer.max_epochs={max_epochs}; "
            "set trainer.max_epochs=10"
        )
        return
    before: float | None = None
    for number, step in enumerate(steps):
        where = f"phases.steps[{number}]"
        for key in step:
            if key not in STEP_KEYS:
                yield f"{where}.{key} is not a key of a step; {nearest(key, STEP_KEYS)}"
        yield from _train_problems(where, step.get("train"))
        yield from _rate_problems(where, step, lr)
        start = step.get("from")
        if problem := _start_problem(where, start, before, max_epochs):
            yield problem
        else:
            before = start


def _train_problems(where: str, train: Any) -> list[str]:
    if isinstance(train, list | tuple) and train and all(isinstance(word, str) for word in train):
        return []
    return [f"{where}.train={train} is not a list of layer groups; set train:[head]"]


def _rate_problems(where: str, step: Mapping[str, Any], lr: float) -> list[str]:
    given = {key: step[key] for key in ("lr", "lr_factor") if step.get(key) is not None}
    problems = [
        f"{where}.{key}={value} is not a positive number; set {key}:0.1, or remove it"
        for key, value in given.items()
        if not _is_number(value) or not 0 < value < float("inf")
    ]
    if len(given) == 2:
        problems.append(
            f"{where} has both lr={given['lr']} and lr_factor={given['lr_factor']}; keep only one"
        )
    if "lr" in given and lr == 0:
        problems.append(
            f"{where}.lr={given['lr']} cannot replace optimizer.lr=0; set optimizer.lr=0.001"
        )
    return problems


def _start_problem(where: str, start: Any, before: float | None, max_epochs: int) -> str:
    whole = isinstance(start, int) and not isinstance(start, bool) and start >= 0
    if not whole and not (isinstance(start, float) and 0 < start < 1):
        return (
            f"{where}.from={start} is neither an epoch nor a fraction of the run between 0 and 1; "
            "set from:3 or from:0.3"
        )
    if before is None and start != 0:
        text = f"{where}.from={start}, but the first step must start at epoch 0; set from:0"
        return text if where == "phases.steps[0]" else ""
    if before is None:
        return ""
    if whole and start >= max_epochs:
        return (
            f"{where}.from={start} is never reached with trainer.max_epochs={max_epochs}; set "
            f"from:{max_epochs - 1} or less, or trainer.max_epochs={start + 1}"
        )
    now, earlier = (epoch_of(value, max_epochs) for value in (start, before))
    # In a short run, adjacent fractions may fall on one epoch: presets must work for any length.
    both = isinstance(start, float) and isinstance(before, float)
    if start > before if both else now > earlier:
        return ""
    return (
        f"{where}.from={start} (epoch {now}) is not after the previous step, from={before} "
        f"(epoch {earlier}); sort the steps and start each at its own epoch"
    )


def _is_number(value: Any) -> bool:
    """Return whether a value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
