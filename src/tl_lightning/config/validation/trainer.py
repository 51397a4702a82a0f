"""Trainer arguments that are set by the framework or not supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tl_lightning.types import Config

__all__ = ["device_faults", "timeout_faults", "trainer_faults"]

#: What the code gives the trainer itself, and what to type for the same end.
_OURS = {
    "callbacks": "callbacks=<name>, one of conf/callbacks/",
    "default_root_dir": "hydra.run.dir=<folder>",
    "enable_checkpointing": "checkpoint.min_seconds=<seconds> to write fewer of them",
    "enable_model_summary": "nothing: the report states the parameters",
    "enable_progress_bar": "callbacks.bar=null",
    "logger": "logger=<name>, one of conf/logger/",
    "num_sanity_val_steps": "trainer.max_epochs=1 trainer.limit_train_batches=1 to try a run out",
    "plugins": "checkpoint.keep_last=<number>",
    "use_distributed_sampler": "nothing: the data deal the samples to the ranks",
}
#: Ways of Lightning's to try a run out, which keep no checkpoint: there is nothing to test then.
_TRIALS = ("fast_dev_run", "barebones")
#: How much of an epoch, a validation, a test; of how much a run can be made.
_LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")


def trainer_faults(config: Mapping[str, Any], monitor: str | None) -> list[str]:
    """Return what is wrong, a sentence each.

    Args:
        config: Every node of it is right by itself.
        monitor: What the selection rule compares in a validation, or None.
    """
    trainer: Mapping[str, Any] = config["trainer"]
    faults = [
        f"trainer.{key}={trainer[key]} is set by the program; type {way}"
        for key, way in _OURS.items()
        if key in trainer
    ]
    faults += [
        f"trainer.{key}={trainer[key]} keeps no model that could be tested; type "
        "trainer.max_epochs=1 trainer.limit_train_batches=1"
        for key in _TRIALS
        if trainer.get(key)
    ]
    if trainer.get("overfit_batches"):
        faults.append(
            f"trainer.overfit_batches={trainer['overfit_batches']} puts a sampler of Lightning's "
            "in the place of the data's own; type trainer.limit_train_batches=1, or a data set of "
            "one batch to learn it by heart"
        )
    for key in _LIMITS:
        value = trainer.get(key)
        off = key == "limit_val_batches" and value == 0 and monitor is None
        if value is not None and not off and not _some(value):
            faults.append(
                f"trainer.{key}={value} is neither a number of batches from 1 on nor a share in "
                f"(0, 1.0]; type trainer.{key}=null for all of them"
            )
    epochs, every = trainer["max_epochs"], trainer.get("check_val_every_n_epoch")
    if monitor is not None and epochs is not None and every is not None and 0 < epochs < every:
        faults.append(
            f"trainer.check_val_every_n_epoch={every} validates nothing in trainer.max_epochs="
            f"{epochs}, and selection={config['selection']} chooses by a validation; type "
            f"trainer.check_val_every_n_epoch={epochs} or less, or selection=last"
        )
    if epochs == -1 and trainer["max_steps"] == -1 and not trainer.get("max_time"):
        faults.append(
            "trainer.max_epochs=-1 with trainer.max_steps=-1 never ends; type trainer.max_epochs=10"
        )
    return faults


def _some(limit: Any) -> bool:
    """Return whether a limit leaves something.

    >>> [_some(limit) for limit in (1, 0.5, 1.0, 0, 0.0, 1.5, -1, True)]
    [True, True, True, False, False, False, False, False]
    """
    if isinstance(limit, bool):
        return False
    return limit >= 1 if isinstance(limit, int) else 0 < limit <= 1


def timeout_faults(trainer: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with ``trainer.timeout_s``."""
    seconds = trainer.get("timeout_s")
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is None or (number and seconds > 0):
        return []
    return [f"trainer.timeout_s={seconds} is no number of seconds above 0; type a number, or null"]


def device_faults(trainer: Config) -> list[str]:
    """Return why the devices that are asked for are not there."""
    accelerator, devices = trainer["accelerator"], trainer["devices"]
    present = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and not present:
        return [
            f"trainer.accelerator={accelerator} with trainer.devices={devices}, but this machine "
            "has no GPU that torch can use; type trainer=cpu or trainer=auto"
        ]
    if accelerator in ("gpu", "cuda") and isinstance(devices, int) and devices > present:
        return [
            f"trainer.devices={devices}, but this machine has {present} GPU(s); "
            f"type trainer.devices={present}"
        ]
    return []
