"""Checks of the steps of ``phases``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_lightning.errors import nearest
from tl_lightning.models.phases import STEP_KEYS, epoch_of, is_number

__all__ = ["step_problems"]


def step_problems(
    steps: Sequence[Mapping[str, Any]], max_epochs: int | None, lr: float
) -> list[str]:
    """Return the problems of the steps that can be found without building the backbone.

    Args:
        steps: The configured ``phases.steps``.
        max_epochs: ``trainer.max_epochs``.
        lr: Learning rate of new layers, which ``lr`` of a step replaces.
    """
    if max_epochs is None or max_epochs < 1:
        return [f"phases need a fixed number of epochs, but trainer.max_epochs={max_epochs}; "
                "set trainer.max_epochs=10"]  # fmt: skip
    problems = []
    before: float | None = None
    for number, step in enumerate(steps):
        where = f"phases.steps[{number}]"
        unknown = [key for key in step if key not in STEP_KEYS]
        problems += [
            f"{where}.{key} is not a key of a step; {nearest(key, STEP_KEYS)}" for key in unknown
        ]
        problems += _train_problems(where, step.get("train"))
        problems += _rate_problems(where, step, lr)
        start = step.get("from")
        problem = _start_problem(where, start, before, max_epochs)
        problems += [problem] if problem else []
        before = start if not problem else before
    return problems


def _train_problems(where: str, train: Any) -> list[str]:
    if isinstance(train, list | tuple) and train and all(isinstance(word, str) for word in train):
        return []
    return [f"{where}.train={train} is not a list of layer groups; set train:[head]"]


def _rate_problems(where: str, step: Mapping[str, Any], lr: float) -> list[str]:
    given = {key: step[key] for key in ("lr", "lr_factor") if step.get(key) is not None}
    problems = [
        f"{where}.{key}={value} is not a positive number; set {key}:0.1, or remove it"
        for key, value in given.items()
        if not is_number(value) or not 0 < value < float("inf")
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
