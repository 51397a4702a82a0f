"""Checks of trainer arguments that are set by the framework or not supported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import (
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
    XLAAccelerator,
)
from lightning.pytorch.callbacks import Timer

from tl_lightning.config.schema import RunConfig, TrainerConfig
from tl_lightning.selection.rules import rule_of

__all__ = ["trainer_problems"]

#: Arguments that the code passes to the trainer, and what to do instead of setting them.
_PASSED_BY_CODE = {
    "callbacks": "set callbacks=<name>, one of conf/callbacks/",
    "default_root_dir": "set hydra.run.dir=<folder>",
    "enable_checkpointing": "set checkpointing.min_seconds=<seconds> to save less often",
    "enable_model_summary": "remove it, as the report lists the parameters",
    "enable_progress_bar": "set callbacks.progress_bar=null to disable the progress bar",
    "logger": "set logger=<name>, one of conf/logger/",
    "num_sanity_val_steps": "set trainer.fast_dev_run=true for a dry run",
    "plugins": "set checkpointing.keep_last=<number> to keep more checkpoints",
    "use_distributed_sampler": "remove it, as the data module distributes samples over the ranks",
    "barebones": "set trainer.fast_dev_run=true for a dry run",
}
_LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")


def trainer_problems(run: RunConfig) -> Iterator[str]:
    """Yield an error message for every problem of the trainer's arguments."""
    trainer, monitor = run.trainer, rule_of(run.selection, run.task.kind).monitor
    for key, hint in _PASSED_BY_CODE.items():
        if key in trainer.extra:
            value = trainer.extra[key]
            yield f"trainer.{key}={value} is not supported, as the framework sets it; {hint}"
    for key in _LIMITS:
        value = getattr(trainer, key)
        off = key == "limit_val_batches" and value == 0 and monitor is None
        if value is not None and not off and not _some(value):
            yield (
                f"trainer.{key}={value} is neither a positive number of batches nor a fraction in "
                f"(0, 1.0]; set trainer.{key}=null to use all batches"
            )
    epochs, every = trainer.max_epochs, trainer.check_val_every_n_epoch
    if monitor is not None and epochs is not None and every is not None and 0 < epochs < every:
        yield (
            f"trainer.check_val_every_n_epoch={every} runs no validation within "
            f"trainer.max_epochs={epochs}, but selection={run.selection} needs one; set "
            f"trainer.check_val_every_n_epoch={epochs} or less, or selection=last"
        )
    if trainer.max_steps == 0:
        yield "trainer.max_steps=0 trains nothing; set trainer.max_steps=-1 for no limit"
    yield from _length_problems(trainer)
    yield from _device_problems(run)


def _length_problems(trainer: TrainerConfig) -> Iterator[str]:
    """Yield why the length of the run is not known, which the schedules follow."""
    epochs, limit = trainer.max_epochs, trainer.extra.get("max_time")
    if limit is not None:
        try:
            Timer(duration=limit)
        except (MisconfigurationException, TypeError, ValueError):
            yield (
                f"trainer.max_time={limit} is not a duration; set trainer.max_time=00:12:00:00 "
                "(days, hours, minutes, seconds)"
            )
    if trainer.max_steps == -1 and (epochs == -1 or (epochs is None and limit is not None)):
        shown = "null" if epochs is None else epochs
        yield (
            f"trainer.max_epochs={shown} with trainer.max_steps=-1 has no known length, which "
            "learning rates and the weights of methods follow; set trainer.max_epochs=10, which "
            "trainer.max_time may cut"
        )


def _some(limit: Any) -> bool:
    """Return whether a limit leaves at least one batch.

    >>> [_some(limit) for limit in (1, 0.5, 1.0, 0, 0.0, 1.5, -1, True)]
    [True, True, True, False, False, False, False, False]
    """
    if isinstance(limit, bool):
        return False
    return limit >= 1 if isinstance(limit, int) else 0 < limit <= 1


#: Accelerators of Lightning by name, and what each of them is.
_ACCELERATORS = {
    "cpu": (CPUAccelerator, "CPU"),
    "gpu": (CUDAAccelerator, "GPU"),
    "cuda": (CUDAAccelerator, "GPU"),
    "mps": (MPSAccelerator, "Apple GPU"),
    "tpu": (XLAAccelerator, "TPU"),
}


def _device_problems(run: RunConfig) -> Iterator[str]:
    name, devices = run.trainer.accelerator, run.trainer.devices
    cls, device = _ACCELERATORS[name]
    present = torch.cuda.device_count()
    if not cls.is_available() or (cls is CUDAAccelerator and not present):
        yield (
            f"trainer.accelerator={name} with trainer.devices={devices}, but this machine "
            f"has no {device} that torch can use; set trainer=cpu or trainer=auto"
        )
    elif cls is CUDAAccelerator and isinstance(devices, int) and devices > present:
        yield (
            f"trainer.devices={devices}, but this machine has {present} GPU(s); "
            f"set trainer.devices={present}"
        )
    elif devices != "auto":
        try:
            cls.parse_devices(devices)
        except (MisconfigurationException, TypeError, ValueError):
            yield (
                f"trainer.devices={devices} is not a valid choice of devices with "
                f"trainer.accelerator={name}; set trainer.devices=1"
                + (" or another number of processes" if name == "cpu" else "")
            )
