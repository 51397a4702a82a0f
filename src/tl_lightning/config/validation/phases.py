"""Checks of the phases of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_lightning.errors import nearest
from tl_lightning.models.phases import STEP_KEYS, epoch_of, is_number

__all__ = ["step_faults"]


def step_faults(steps: Sequence[Mapping[str, Any]], max_epochs: int | None, lr: float) -> list[str]:
    """Return what is wrong with the steps of a configuration, as far as no backbone is needed.

    Args:
        steps: As a user wrote them.
        max_epochs: Of the trainer.
        lr: Rate of new layers, which ``lr`` of a step replaces.
    """
    if max_epochs is None or max_epochs < 1:
        return [f"phases count epochs, but trainer.max_epochs={max_epochs}; "
                "type trainer.max_epochs=10"]  # fmt: skip
    faults = []
    before: float | None = None
    for number, step in enumerate(steps):
        where = f"phases.steps[{number}]"
        unknown = [key for key in step if key not in STEP_KEYS]
        faults += [
            f"{where}.{key} is no key of a step; {nearest(key, STEP_KEYS)}" for key in unknown
        ]
        faults += _train_faults(where, step.get("train"))
        faults += _rate_faults(where, step, lr)
        start = step.get("from")
        fault = _start_fault(where, start, before, max_epochs)
        faults += [fault] if fault else []
        before = start if not fault else before
    return faults


def _train_faults(where: str, train: Any) -> list[str]:
    if isinstance(train, list | tuple) and train and all(isinstance(word, str) for word in train):
        return []
    return [f"{where}.train={train} is not a list of names; type train:[head]"]


def _rate_faults(where: str, step: Mapping[str, Any], lr: float) -> list[str]:
    given = {key: step[key] for key in ("lr", "lr_factor") if step.get(key) is not None}
    faults = [
        f"{where}.{key}={value} is not a positive number; type {key}:0.1, or leave it out"
        for key, value in given.items()
        if not is_number(value) or not 0 < value < float("inf")
    ]
    if len(given) == 2:
        faults.append(
            f"{where} has both lr={given['lr']} and lr_factor={given['lr_factor']}; keep one"
        )
    if "lr" in given and lr == 0:
        faults.append(f"{where}.lr={given['lr']} replaces optimizer.lr=0; type optimizer.lr=0.001")
    return faults


def _start_fault(where: str, start: Any, before: float | None, max_epochs: int) -> str:
    whole = isinstance(start, int) and not isinstance(start, bool) and start >= 0
    if not whole and not (isinstance(start, float) and 0 < start < 1):
        return (
            f"{where}.from={start} is neither an epoch nor a fraction of the run between 0 and 1; "
            "type from:3 or from:0.3"
        )
    if before is None and start != 0:
        first = where == "phases.steps[0]"
        return f"{where}.from={start}, but a run starts at epoch 0; type from:0" if first else ""
    if before is None:
        return ""
    if whole and start >= max_epochs:
        return (
            f"{where}.from={start} would never come with trainer.max_epochs={max_epochs}; type "
            f"from:{max_epochs - 1} or less, or trainer.max_epochs={start + 1}"
        )
    now, earlier = (epoch_of(value, max_epochs) for value in (start, before))
    # Neighbouring fractions may share an epoch of a short run: presets have to fit any.
    both = isinstance(start, float) and isinstance(before, float)
    if start > before if both else now > earlier:
        return ""
    return (
        f"{where}.from={start} (epoch {now}) does not come after the step before it, from={before} "
        f"(epoch {earlier}); put the steps in order, each with an epoch of its own"
    )
