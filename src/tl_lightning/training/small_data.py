"""Batches and steps for small data, whose epochs would consist of a few steps."""

from __future__ import annotations

import math

from tl_lightning.config.compose import default_node
from tl_lightning.config.schema import RunConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.class_folders import ClassFoldersDataModule
from tl_lightning.data.datamodules.image_table import ImageTableDataModule
from tl_lightning.distributed.strategy import num_processes

__all__ = ["LEAST_STEPS", "fit_to_size"]

#: Steps of a run with default settings, see docs/measurements.md.
LEAST_STEPS = 150
#: Batches of a pass over small data, and their least size.
_BATCHES, _LEAST_BATCH = 10, 8


def fit_to_size(run: RunConfig, data: TransferDataModule) -> None:
    """Make batches smaller and epochs longer for your own small data.

    Applies to ``data=folder``, ``domains`` and ``csv`` if batch size, epochs and steps have their
    default values. Settings are not changed, so that a run can be resumed with the same command.

    Args:
        run: A checked configuration.
        data: Its data module after ``discover``; it is changed.
    """
    if not _by_default(run, data):
        return
    ranks, epochs = num_processes(run.trainer), int(run.trainer.max_epochs or 1)
    sizes = [len(domain.train) for domain in data.found.values()]
    steps = math.ceil(LEAST_STEPS / epochs)
    if max(sizes) // (data.batch_size * ranks) >= steps:
        return
    batch = max(_LEAST_BATCH, min(data.batch_size, max(sizes) // (_BATCHES * ranks)))
    data.batch_size = min(batch, *sizes)
    data.steps_per_epoch = max(steps, max(sizes) // (data.batch_size * ranks))
    data.size_notes = [
        f"{max(sizes)} training {data.gives} are few for the default settings, so {epochs} epochs "
        f"of {data.steps_per_epoch} batches of {data.batch_size} were trained; set "
        "data.batch_size, data.steps_per_epoch or trainer.max_epochs to choose other numbers"
    ]


def _by_default(run: RunConfig, data: TransferDataModule) -> bool:
    """Return whether the user has set neither the batch size nor the length of the run."""
    own = isinstance(data, ClassFoldersDataModule | ImageTableDataModule) or data.name == "domains"
    trainer, node = run.trainer, run.plain["data"]
    defaults = {"batch_size": default_node("data", "_base")["batch_size"], "steps_per_epoch": None}
    return (
        own
        and all(node.get(key) == value for key, value in defaults.items())
        and trainer.max_epochs == default_node("trainer", "auto")["max_epochs"]
        and trainer.max_steps == -1
        and trainer.limit_train_batches is None
    )
