"""Checks of multi-process training: strategies, run names, sharded weights."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.distributed.strategy import is_sharded, supports_freezing
from tl_lightning.losses.regularizers import L1, L2, L2SP
from tl_lightning.methods.base import Method

__all__ = ["strategy_problems"]

#: Strategies of Lightning that are not supported, and why.
_UNSUPPORTED = {
    "fsdp": "uses Lightning's FSDP1, which does not support training steps that call submodules",
    "deepspeed": "writes sharded checkpoint folders, which cannot be read here",
    "dp": "was removed from Lightning",
}


def strategy_problems(run: RunConfig) -> Iterator[str]:
    """Yield an error message for every problem of multi-process training."""
    trainer = run.trainer
    if trainer.num_nodes != 1 and os.environ.get("TL_RUN_ID", "").endswith(f"-{os.getpid()}"):
        # Each node has generated a run id of its own.
        yield (
            f"trainer.num_nodes={trainer.num_nodes} without a common run name: each node would "
            "write its own run folder; set the environment variable TL_RUN_ID=<name> on every "
            "node, or launch with torchrun or SLURM"
        )
    strategy = str(trainer.strategy)
    for name, reason in _UNSUPPORTED.items():
        if strategy == name or strategy.startswith(f"{name}_"):
            choice = "fsdp" if name != "dp" else "ddp"
            yield f"trainer.strategy={strategy} {reason}; set trainer={choice}"
    if trainer.sync_batchnorm and trainer.accelerator == "cpu":
        yield (
            "trainer.sync_batchnorm=true is only supported on GPUs, but trainer.accelerator=cpu; "
            "set trainer.sync_batchnorm=false"
        )
    if run.steps and not supports_freezing(trainer.strategy) and not is_sharded(trainer):
        yield (
            f"trainer.strategy={run.plain['trainer']['strategy']} is not supported with phases, "
            "which freeze and unfreeze layers during the run; set trainer.strategy=ddp"
        )
    if is_sharded(trainer):
        for setting, reason in _sharding_problems(run):
            yield f"{setting} is not supported with trainer=fsdp: it {reason}; set trainer=ddp"


def _sharding_problems(run: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield the settings that do not work with sharded weights, and why; see docs/scaling.md."""
    for name, node in run.methods.items():
        if reason := _sharding_obstacle(node.cls):
            yield f"method=[{name}]", reason
    if "callbacks.weight_averaging" in run.nodes:
        yield "callbacks.weight_averaging", "keeps a full copy of the weights"
    for name, node in run.group("regularizer").items():
        if issubclass(node.cls, L1 | L2 | L2SP):
            yield f"regularizer=[{name}]", "reads the full weights"
    if run.task_weighting == "uncertainty" and run.aux_tasks:
        yield "task_weighting=uncertainty", "trains weights outside the network"
    if run.cache.features in ("full", "prefix"):
        yield f"cache.features={run.cache.features}", "runs parts of the network alone"
    if run.compile:
        yield f"compile={run.compile}", "has not been tested enough with sharded weights"
    if run.trainer.sync_batchnorm:
        yield "trainer.sync_batchnorm=true", "is ignored by this strategy"


def _sharding_obstacle(cls: type[Method]) -> str:
    """Return why a method cannot be trained with sharded weights; empty if it can."""
    if cls.alternating:
        return "takes several optimizer steps per batch"
    if cls.teacher is not None:
        return "keeps a second copy of the model"
    if cls.modify_network is not Method.modify_network:
        return "changes the layers of the network"
    return "computes a target bank before each epoch" if cls.uses_target_bank else ""
