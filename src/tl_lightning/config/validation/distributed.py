"""Checks of strategies and batch sizes for multi-process training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tl_lightning.config.validation.classes import method_classes
from tl_lightning.distributed.strategy import sharded
from tl_lightning.methods.base import Method
from tl_lightning.types import Config

__all__ = ["strategy_problems"]

#: Strategies of Lightning that are not supported, and why.
_UNSUPPORTED = {
    "fsdp": "uses Lightning's FSDP1, which does not support training steps that call submodules",
    "deepspeed": "writes sharded checkpoint folders, which cannot be read here",
    "dp": "was removed from Lightning",
}
#: Regularizers that read the weights.
_READ_WEIGHTS = ("L1", "L2", "L2SP")


def strategy_problems(config: Config) -> list[str]:
    """Return an error message for every problem of multi-process training."""
    trainer = config["trainer"]
    problems = _batch_problems(config) + _name_problems(trainer)
    strategy = str(trainer["strategy"])
    for name, reason in _UNSUPPORTED.items():
        if strategy == name or strategy.startswith(f"{name}_"):
            trainer_choice = "fsdp" if name != "dp" else "ddp"
            problems.append(f"trainer.strategy={strategy} {reason}; set trainer={trainer_choice}")
    if trainer.get("sync_batchnorm") and trainer["accelerator"] == "cpu":
        problems.append(
            "trainer.sync_batchnorm=true is only supported on GPUs, but trainer.accelerator=cpu; "
            "set trainer.sync_batchnorm=false"
        )
    return problems + (_sharded_problems(config) if sharded(trainer) else [])


def _name_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Return why several nodes would write separate runs: each has generated its own run id."""
    if trainer["num_nodes"] == 1 or not os.environ.get("TL_RUN_ID", "").endswith(f"-{os.getpid()}"):
        return []
    return [
        f"trainer.num_nodes={trainer['num_nodes']} without a common run name: each node would "
        "write its own run folder; set the environment variable TL_RUN_ID=<name> on every node, "
        "or launch with torchrun or SLURM"
    ]


def _batch_problems(config: Config) -> list[str]:
    reference = config.get("reference_batch_size")
    if reference is None:
        return []
    if isinstance(reference, bool) or not isinstance(reference, int) or reference < 1:
        return [
            f"reference_batch_size must be a positive integer, got {reference}; use 256, or null "
            "to leave optimizer.lr unscaled"
        ]
    if config.get("lr_find"):
        return [
            "lr_find=true finds a learning rate for the current batch size, and "
            f"reference_batch_size={reference} would scale it again; set reference_batch_size=null"
        ]
    return []


def _sharded_problems(config: Config) -> list[str]:
    """Return the settings that do not work with sharded weights; see docs/scaling.md."""
    found = {}
    for name, cls in method_classes(config).items():
        if reason := _sharding_obstacle(cls):
            found[f"method=[{name}]"] = reason
    if (config.get("callbacks") or {}).get("weight_averaging"):
        found["callbacks.weight_averaging"] = "keeps a full copy of the weights"
    for name, node in (config.get("regularizer") or {}).items():
        if str(node["_target_"]).rpartition(".")[2] in _READ_WEIGHTS:
            found[f"regularizer=[{name}]"] = "reads the full weights"
    if config.get("task_weighting") == "uncertainty" and config.get("aux_tasks"):
        found["task_weighting=uncertainty"] = "trains weights outside the network"
    if config["cache"]["features"] in ("full", "prefix"):
        found[f"cache.features={config['cache']['features']}"] = "runs parts of the network alone"
    if config["compile"]:
        found[f"compile={config['compile']}"] = "has not been tested enough with sharded weights"
    if config["trainer"].get("sync_batchnorm"):
        found["trainer.sync_batchnorm=true"] = "is ignored by this strategy"
    return [
        f"{setting} is not supported with trainer=fsdp: it {reason}; set trainer=ddp"
        for setting, reason in found.items()
    ]


def _sharding_obstacle(cls: type[Method]) -> str:
    """Return why a method cannot be trained with sharded weights; empty if it can."""
    if cls.alternating:
        return "takes several optimizer steps per batch"
    if cls.teacher is not None:
        return "keeps a second copy of the model"
    if cls.modify_network is not Method.modify_network:
        return "changes the layers of the network"
    return "computes a target bank before each epoch" if cls.uses_target_bank else ""
