"""Limits of the trainer that depend on the data, and runs that ended before their schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.errors import ConfigError
from tl_lightning.models.base import TransferModule
from tl_lightning.models.optimization import total_batches
from tl_lightning.reporting.artifacts import read_curves
from tl_lightning.training.build import Parts
from tl_lightning.utils.callbacks import find_callback

__all__ = ["check_limits", "early_end", "still_falling", "tested_samples", "untested"]

#: A training loss that falls by more than this share in the last epoch, and is not below the
#: second number, is still falling.
_FALL, _LOW = 0.1, 0.1


def check_limits(parts: Parts) -> None:
    """Check the trainer's limits against the numbers of batches, before training starts.

    Args:
        parts: What was built, with its cached features.

    Raises:
        ConfigError: If a limit leaves no batch, or no validation.
    """
    if problems := list(_problems(parts)):
        raise ConfigError(problems)


def _problems(parts: Parts) -> Iterator[str]:
    trainer, data = parts.run.trainer, parts.data
    ranks = parts.trainer.world_size
    train = data.num_batches if data.steps_per_epoch else max(1, data.num_batches // ranks)
    numbers = {"train": train}
    if isinstance(trainer.limit_val_batches, float):
        numbers["val"] = min(-(-len(loader) // ranks) for loader in data.val_dataloader())
    if isinstance(trainer.limit_test_batches, float) and parts.run.test:
        numbers["test"] = min(-(-len(loader) // ranks) for loader in data.test_dataloader())
    for stage, number in numbers.items():
        limit = getattr(trainer, f"limit_{stage}_batches")
        if isinstance(limit, float) and 0 < limit * number < 1:
            yield (
                f"trainer.limit_{stage}_batches={limit} of {number} batch(es) leaves none; set "
                f"trainer.limit_{stage}_batches=1"
            )
    interval = trainer.extra.get("val_check_interval")
    counted = trainer.check_val_every_n_epoch is not None
    if counted and isinstance(interval, int) and interval > train:
        yield (
            f"trainer.val_check_interval={interval} is more than the {train} batch(es) of an "
            f"epoch; set trainer.val_check_interval={train} or less"
        )


def early_end(trainer: L.Trainer, module: TransferModule) -> list[str]:
    """Return a note if training ended before its schedules did, for instance by ``max_time``.

    Args:
        trainer: The trainer after ``fit``.
        module: The model that it trained.
    """
    if math.isinf(trainer.num_training_batches):  # a finished run was resumed
        return []
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    done, total = int(progress.processed), total_batches(module)
    if done >= total:
        return []
    timer = find_callback(trainer, Timer)
    timed = timer is not None and (timer.time_remaining() or 0) <= 0
    cause = "trainer.max_time" if timed else "a callback"
    return [
        f"{cause} ended the run after {done:,} of {total:,.0f} batches ({done / total:.0%}), so "
        "that learning rates and the weights of methods stopped there; set trainer.max_epochs to "
        "what the time allows"
    ]


def tested_samples(trainer: L.Trainer, data: TransferDataModule) -> dict[str, int]:
    """Return the number of tested samples by domain, fewer than all with a limit of the trainer.

    Args:
        trainer: The trainer after ``test``.
        data: The data module that it tested on.
    """
    counts = {}
    loaders = zip(trainer.num_test_batches, data.test_dataloader(), strict=True)
    for name, (batches, loader) in zip(data.domain_names, loaders, strict=True):
        whole, size = len(data.found[name].test), getattr(loader, "batch_size", None) or 1
        limited = int(batches) * size * trainer.world_size
        counts[name] = whole if batches >= len(loader) else min(whole, limited)
    return counts


def untested(trainer: L.Trainer, data: TransferDataModule) -> list[str]:
    """Return a note for each domain of which a limit of the trainer leaves out test samples."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return []  # its own note says that the figures mean nothing
    return [
        f"trainer.limit_test_batches={trainer.limit_test_batches}: only {count:,} of the "
        f"{len(data.found[name].test):,} test samples of the {name} were tested"
        for name, count in tested_samples(trainer, data).items()
        if count < len(data.found[name].test)
    ]


def still_falling(run_dir: Path, fitted: tuple[int, int] | None = None) -> list[str]:
    """Return a note if the task's training loss was still falling in the last epoch.

    Args:
        run_dir: Folder with the logged metrics.
        fitted: Batch size and steps per epoch that were fitted to the data, which another number
            of epochs would switch off.
    """
    curves = read_curves(run_dir / "metrics.csv")
    series = curves.get("train/task") or curves.get("train/loss")
    losses = [] if series is None else series.per_epoch()[1].tolist()
    if len(losses) < 2 or losses[-1] < _LOW or losses[-1] > (1 - _FALL) * losses[-2]:
        return []
    batches = fitted and f" data.batch_size={fitted[0]} data.steps_per_epoch={fitted[1]}"
    return [
        f"the training loss was still falling ({losses[-2]:.3g} to {losses[-1]:.3g} in the last "
        f"epoch); more than {len(losses)} epochs may give a better model: trainer.max_epochs="
        f"{2 * len(losses)}{batches or ''}"
    ]
