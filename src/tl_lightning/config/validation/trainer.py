"""Checks of trainer arguments that are set by the framework or not supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tl_lightning.types import Config

__all__ = ["device_problems", "timeout_problems", "trainer_problems"]

#: Arguments that the code passes to the trainer, and what to do instead of setting them.
_PASSED_BY_CODE = {
    "callbacks": "set callbacks=<name>, one of conf/callbacks/",
    "default_root_dir": "set hydra.run.dir=<folder>",
    "enable_checkpointing": "set checkpointing.min_seconds=<seconds> to save less often",
    "enable_model_summary": "remove it, as the report lists the parameters",
    "enable_progress_bar": "set callbacks.progress_bar=null to disable the progress bar",
    "logger": "set logger=<name>, one of conf/logger/",
    "num_sanity_val_steps": "set trainer.max_epochs=1 trainer.limit_train_batches=1 for a dry run",
    "plugins": "set checkpointing.keep_last=<number> to keep more checkpoints",
    "use_distributed_sampler": "remove it, as the data module distributes samples over the ranks",
}
#: Dry-run modes of Lightning, which save no checkpoint to test.
_DRY_RUNS = ("fast_dev_run", "barebones")
_LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")


def trainer_problems(config: Mapping[str, Any], monitor: str | None) -> list[str]:
    """Return an error message for every problem of the trainer's arguments.

    Args:
        config: A configuration whose nodes are each valid.
        monitor: Validation metric that the selection rule compares, or None.
    """
    trainer: Mapping[str, Any] = config["trainer"]
    problems = [
        f"trainer.{key}={trainer[key]} is not supported, as the framework sets it; {hint}"
        for key, hint in _PASSED_BY_CODE.items()
        if key in trainer
    ]
    problems += [
        f"trainer.{key}={trainer[key]} saves no checkpoint to test; set trainer.max_epochs=1 "
        "trainer.limit_train_batches=1"
        for key in _DRY_RUNS
        if trainer.get(key)
    ]
    if trainer.get("overfit_batches"):
        problems.append(
            f"trainer.overfit_batches={trainer['overfit_batches']} replaces the samplers of the "
            "data module; set trainer.limit_train_batches=1, or use a dataset of a single batch"
        )
    for key in _LIMITS:
        value = trainer.get(key)
        off = key == "limit_val_batches" and value == 0 and monitor is None
        if value is not None and not off and not _some(value):
            problems.append(
                f"trainer.{key}={value} is neither a positive number of batches nor a fraction in "
                f"(0, 1.0]; set trainer.{key}=null to use all batches"
            )
    epochs, every = trainer["max_epochs"], trainer.get("check_val_every_n_epoch")
    if monitor is not None and epochs is not None and every is not None and 0 < epochs < every:
        problems.append(
            f"trainer.check_val_every_n_epoch={every} runs no validation within "
            f"trainer.max_epochs={epochs}, but selection={config['selection']} needs one; set "
            f"trainer.check_val_every_n_epoch={epochs} or less, or selection=last"
        )
    if epochs == -1 and trainer["max_steps"] == -1 and not trainer.get("max_time"):
        problems.append(
            "trainer.max_epochs=-1 with trainer.max_steps=-1 never ends; set trainer.max_epochs=10"
        )
    return problems


def _some(limit: Any) -> bool:
    """Return whether a limit on batches is valid and leaves at least one.

    >>> [_some(limit) for limit in (1, 0.5, 1.0, 0, 0.0, 1.5, -1, True)]
    [True, True, True, False, False, False, False, False]
    """
    if isinstance(limit, bool):
        return False
    return limit >= 1 if isinstance(limit, int) else 0 < limit <= 1


def timeout_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Return the problems of ``trainer.timeout_s``."""
    seconds = trainer.get("timeout_s")
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is None or (number and seconds > 0):
        return []
    return [
        f"trainer.timeout_s={seconds} must be a positive number of seconds or null; set "
        "trainer.timeout_s=1800"
    ]


def device_problems(trainer: Config) -> list[str]:
    """Return why the requested devices are not available."""
    accelerator, devices = trainer["accelerator"], trainer["devices"]
    present = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and not present:
        return [
            f"trainer.accelerator={accelerator} with trainer.devices={devices}, but this machine "
            "has no GPU that torch can use; set trainer=cpu or trainer=auto"
        ]
    if accelerator in ("gpu", "cuda") and isinstance(devices, int) and devices > present:
        return [
            f"trainer.devices={devices}, but this machine has {present} GPU(s); "
            f"set trainer.devices={present}"
        ]
    return []
