"""Batches and steps for small data, whose epochs would consist of a few steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tl_lightning.config.compose import default_node
from tl_lightning.config.schema import RunConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.class_folders import ClassFoldersDataModule
from tl_lightning.data.datamodules.image_table import ImageTableDataModule
from tl_lightning.distributed.strategy import num_processes
from tl_lightning.errors import ConfigError, DataError

__all__ = ["LEAST_STEPS", "check_batches", "check_spans", "fit_to_size"]

#: Steps of a run with default settings, see docs/measurements.md.
LEAST_STEPS = 150
#: Batches of a pass over small data, and their least size.
_BATCHES, _LEAST_BATCH = 10, 8


def fit_to_size(
    run: RunConfig, data: TransferDataModule, before: Mapping[str, Any] | None = None
) -> None:
    """Make batches smaller and epochs longer for your own small data.

    Applies to ``data=folder``, ``domains`` and ``csv`` if batch size, epochs and steps have their
    default values. Settings are not changed, so that a run can be resumed with the same command. A
    resumed run, also one with another number of epochs, keeps the batches of its checkpoint.

    Args:
        run: A checked configuration.
        data: Its data module after ``discover``; it is changed.
        before: What the checkpoint stores of the data if the run is resumed.
    """
    if before and "fitted" in before and _default_batches(run):
        if before["fitted"]:
            batch, steps = before["fitted"]
            _set_batches(run, data, min(batch, data.batch_size), steps)
        return
    if not _by_default(run, data):
        return
    ranks, epochs = num_processes(run.trainer), int(run.trainer.max_epochs or 1)
    sizes = [len(domain.train) for domain in data.found.values()]
    steps = math.ceil(LEAST_STEPS / epochs)
    if max(sizes) // (data.batch_size * ranks) >= steps:
        return
    batch = max(_LEAST_BATCH, min(data.batch_size, max(sizes) // (_BATCHES * ranks)))
    batch = min(batch, *sizes)
    _set_batches(run, data, batch, max(steps, max(sizes) // (batch * ranks)))


def check_batches(run: RunConfig, data: TransferDataModule) -> None:
    """Check that batches, which no domain is smaller than, are large enough for the methods.

    Args:
        run: A checked configuration, whose own batch size is large enough.
        data: Its data module after ``discover``.

    Raises:
        DataError: If a domain has too few training samples.
    """
    for name, node in run.methods.items():
        ranks = num_processes(run.trainer) if node.params.get("gather") else 1
        if data.batch_size < run.batch_size and data.batch_size * ranks < node.cls.smallest_batch:
            least = min(data.found.values(), key=lambda domain: len(domain.train))
            raise DataError(
                f"method=[{name}] compares the samples of a batch and needs at least "
                f"{node.cls.smallest_batch} training samples per domain, but {least.name} has "
                f"{len(least.train)}; add samples, or set another method"
            )


def check_spans(run: RunConfig, name: str, width: int) -> None:
    """Check that the features are wide enough for a method that compares their spans.

    Two subspaces of ``B`` dimensions of a space of ``D`` share at least ``2 B - D`` dimensions,
    whatever the samples are.

    Args:
        run: A checked configuration.
        name: Name of the method.
        width: Width ``D`` of the features.

    Raises:
        ConfigError: If twice the number of samples is larger than the width.
    """
    node = run.methods[name]
    ranks = num_processes(run.trainer) if node.params.get("gather") else 1
    if node.cls.compares_spans and 2 * run.batch_size * ranks > width:
        each = f" on each of {ranks} ranks" if ranks > 1 else ""
        most = width // 2 // ranks
        smaller = f"data.batch_size={most} or less, " if most >= node.cls.smallest_batch else ""
        raise ConfigError(
            f"method=[{name}] compares the subspaces that the features of a batch span, which "
            f"must have at most half of the {width} dimensions of the features, but "
            f"data.batch_size={run.batch_size}{each}; set {smaller}wider features, or "
            "method=[dare_gram]"
        )


def _set_batches(run: RunConfig, data: TransferDataModule, batch: int, steps: int) -> None:
    largest = max(len(domain.train) for domain in data.found.values())
    data.batch_size, data.steps_per_epoch, data.fitted = batch, steps, (batch, steps)
    data.size_notes = [
        f"{largest} training {data.gives} are few for the default settings, so "
        f"{run.trainer.max_epochs} epochs of {steps} batches of {batch} were trained; set "
        "data.batch_size, data.steps_per_epoch or trainer.max_epochs to choose other numbers"
    ]


def _default_batches(run: RunConfig) -> bool:
    node = run.plain["data"]
    defaults = {"batch_size": default_node("data", "_base")["batch_size"], "steps_per_epoch": None}
    return all(node.get(key) == value for key, value in defaults.items())


def _by_default(run: RunConfig, data: TransferDataModule) -> bool:
    """Return whether the user has set neither the batch size nor the length of the run."""
    own = isinstance(data, ClassFoldersDataModule | ImageTableDataModule) or data.name == "domains"
    trainer = run.trainer
    return (
        own
        and _default_batches(run)
        and trainer.max_epochs == default_node("trainer", "auto")["max_epochs"]
        and trainer.max_steps == -1
        and trainer.limit_train_batches is None
    )
