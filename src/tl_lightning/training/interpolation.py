"""Interpolation between the weights before training and those of the selected model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from tl_lightning.callbacks.model_checkpoint import START, SelectionCheckpoint
from tl_lightning.checkpoints.io import INTERPOLATED, read_checkpoint
from tl_lightning.errors import CheckpointError
from tl_lightning.selection.callback import Validators
from tl_lightning.selection.collapse import apply_collapse_filter
from tl_lightning.training.build import Parts
from tl_lightning.training.head_start import Interpolated, Start
from tl_lightning.training.results import SelectionState
from tl_lightning.utils.callbacks import find_callback

__all__ = ["interpolate", "interpolated"]


def interpolated(start: Mapping[str, Any], end: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    """Return ``(1 - alpha) * start + alpha * end`` for every floating-point tensor.

    Buffers are interpolated as well: batch norm's mean and variance, which are the same in both
    if they are frozen. Other values, such as counters, are those of ``end``.

    Args:
        start: State dict of a model before training.
        end: State dict of the trained model.
        alpha: In [0, 1]; 0 yields ``start`` and 1 ``end``, bit for bit.

    >>> interpolated({"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}, 0.25)
    {'w': tensor(1.5000)}
    """
    return {
        name: torch.lerp(start[name], value, alpha)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in end.items()
    }


@dataclass(frozen=True)
class _Scored:
    """A model and what the selection rule needs of it; ``alpha`` is None for the selected one."""

    alpha: float | None
    score: float | None
    source_val: float


def interpolate(
    parts: Parts, start: Start, state: SelectionState, chosen: Path
) -> tuple[SelectionState, Path]:
    """Compare models between the start and the selected one, and keep the best by the rule.

    Wortsman et al. (2022): Robust fine-tuning of zero-shot models. CVPR, arXiv:2109.01903
    (WiSE-FT). Every model is validated like an epoch of the run. If no epoch was better than the
    start, the last one takes the place of the selected model. A single number in the configuration
    is used without a comparison.

    Args:
        parts: Objects of a run after training; the weights of its model are changed.
        start: The models before training; what was compared is added.
        state: State of the selection.
        chosen: Checkpoint of the selected model.

    Returns:
        The selection and the checkpoint to test.

    Raises:
        CheckpointError: If the model before training is not among the checkpoints.
    """
    wanted = parts.run.interpolation
    assert wanted is not None
    checkpoint: Any = parts.trainer.checkpoint_callback
    forced, alphas = not isinstance(wanted, list), wanted if isinstance(wanted, list) else [wanted]
    last = Path(checkpoint.last_model_path)
    end = read_checkpoint(last if chosen.stem.endswith(START) else chosen)
    begin = read_checkpoint(start_file(parts, parts.trainer.ckpt_path))["state_dict"]
    mixtures = {alpha: interpolated(begin, end["state_dict"], alpha) for alpha in alphas}
    validators = find_callback(parts.trainer, Validators)
    found = [
        _scored(alpha, _validated(parts, mixture), checkpoint.monitor)
        for alpha, mixture in mixtures.items()
    ]
    selected = _Scored(None, state.score, state.source_val)
    if validators is not None and str(checkpoint.monitor).startswith("validator/floored/"):
        lowest = validators.min_source_ratio * validators.best_source_acc
        selected, *found = (_filtered(one, lowest) for one in (selected, *found))
    best = found[0] if forced else _best([selected, *found])
    start.interpolated = [
        Interpolated(float(one.alpha), one.score, one.source_val, one is best)
        for one in found
        if one.alpha is not None
    ]
    start.selected = selected.score
    file = chosen.parent / f"{checkpoint.rule}{INTERPOLATED}.ckpt"
    if best.alpha is None:
        if parts.trainer.is_global_zero:
            file.unlink(missing_ok=True)  # of an earlier attempt
        return state, chosen
    if parts.trainer.is_global_zero:
        # Outputs of the selected model, from before a resume, are not those of the mixture.
        stored = {**end, "state_dict": mixtures[best.alpha], "reliability": {}}
        parts.trainer.strategy.checkpoint_io.save_checkpoint(stored, file)
    parts.trainer.strategy.barrier()
    note = (
        f"the tested model is {best.alpha:g} of epoch {end['epoch'] + 1} and {1 - best.alpha:g} "
        f"of the model before training (interpolation={_text(wanted)})"
    )
    notes = [*state.notes, note]
    return replace(state, score=best.score, source_val=best.source_val, notes=notes), file


def _best(models: list[_Scored]) -> _Scored:
    """Return the model with the highest score; of equal ones the first."""
    return max(models, key=lambda one: -torch.inf if one.score is None else one.score)


def _filtered(one: _Scored, lowest: float) -> _Scored:
    """Apply the collapse filter again, since later models may have raised its threshold."""
    if one.score is None or one.source_val >= lowest:
        return one
    worst = apply_collapse_filter(one.score, source_acc=one.source_val, is_collapsed=True)
    return replace(one, score=worst)


def _scored(alpha: float, values: Mapping[str, Any], monitor: str | None) -> _Scored:
    score = values.get(str(monitor))
    source = float(values.get("validator/source_val", 0.0))
    return _Scored(alpha, None if score is None else float(score), source)


def start_file(parts: Parts, resumed: str | Path | None) -> Path:
    """Return the checkpoint of the model before training, also of a run resumed elsewhere.

    Args:
        parts: Objects of the run.
        resumed: The checkpoint that the run was resumed from, if any.

    Raises:
        CheckpointError: If there is none.
    """
    checkpoint = cast(SelectionCheckpoint, parts.trainer.checkpoint_callback)
    name = f"{checkpoint.rule}{START}.ckpt"
    folders = [Path(str(checkpoint.dirpath))]
    folders += [Path(resumed).parent] if resumed else []
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"interpolation needs the model before training, but there is no {name} in {folders[0]}, "
        "because the run was started without interpolation; set interpolation=null, or start a "
        "new run"
    )


def _validated(parts: Parts, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Validate the model with other weights, and return what is logged."""
    parts.module.load_state_dict(weights)
    with _only_scores(parts.trainer):
        parts.trainer.validate(parts.module, datamodule=parts.data, verbose=False)
    return dict(parts.trainer.callback_metrics)


@contextmanager
def _only_scores(trainer: L.Trainer) -> Iterator[None]:
    """Take away the loggers and all callbacks but the scores, which belong to the epochs."""
    whole: Any = trainer
    callbacks, loggers = whole.callbacks, whole.loggers
    whole.callbacks = [one for one in callbacks if isinstance(one, Validators)]
    whole.loggers = []
    try:
        yield
    finally:
        whole.callbacks, whole.loggers = callbacks, loggers


def _text(value: float | list[float]) -> str:
    return f"[{','.join(f'{one:g}' for one in value)}]" if isinstance(value, list) else f"{value:g}"
