"""Checks of strategies, devices and batches on several processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tl_lightning.config.validation.classes import adapters_of
from tl_lightning.distributed.strategy import sharded
from tl_lightning.methods.base import Adapter
from tl_lightning.types import Config

__all__ = ["strategy_faults"]

#: Strategies of Lightning's that cannot train what we build, and why.
_REFUSED = {
    "fsdp": "is Lightning's older FSDP, which knows nothing of the parts that a step calls",
    "deepspeed": "writes folders of pieces in place of checkpoints, which nothing here reads",
    "dp": "was removed from Lightning",
}
#: Terms of the loss that are made of the weights themselves.
_OF_WEIGHTS = ("L1", "L2", "L2SP")


def strategy_faults(config: Config) -> list[str]:
    """Return what the processes cannot do together, a sentence each."""
    trainer = config["trainer"]
    faults = _batch_faults(config) + _name_faults(trainer)
    strategy = str(trainer["strategy"])
    for name, why in _REFUSED.items():
        if strategy == name or strategy.startswith(f"{name}_"):
            way = "trainer=fsdp" if name != "dp" else "trainer=ddp"
            faults.append(f"trainer.strategy={strategy} {why}; type {way}")
    if trainer.get("sync_batchnorm") and trainer["accelerator"] == "cpu":
        faults.append(
            "trainer.sync_batchnorm=true works on GPUs only, but trainer.accelerator=cpu; type "
            "trainer.sync_batchnorm=false"
        )
    return faults + (_sharded_faults(config) if sharded(trainer) else [])


def _name_faults(trainer: Mapping[str, Any]) -> list[str]:
    """Return why several machines would write several runs: each has just made up a name."""
    if trainer["num_nodes"] == 1 or not os.environ.get("TL_RUN_ID", "").endswith(f"-{os.getpid()}"):
        return []
    return [
        f"trainer.num_nodes={trainer['num_nodes']} started by hand: the machines share no name for "
        "this run, and each would write a folder of its own; type TL_RUN_ID=<name> before the "
        "command on each of them, or start it by torchrun or SLURM"
    ]


def _batch_faults(config: Config) -> list[str]:
    reference = config.get("lr_for_batch")
    if reference is None:
        return []
    if isinstance(reference, bool) or not isinstance(reference, int) or reference < 1:
        return [
            f"lr_for_batch={reference} is no number of pictures; type lr_for_batch=256, or "
            "lr_for_batch=null for optimizer.lr as it is"
        ]
    if config.get("lr_find"):
        return [
            "lr_find=true finds a rate for the batch that it sees, and lr_for_batch="
            f"{reference} would scale it again; type lr_for_batch=null"
        ]
    return []


def _sharded_faults(config: Config) -> list[str]:
    """Return what cannot learn with divided weights; each was tried, see docs/scaling.md."""
    found = []
    for name, cls in adapters_of(config).items():
        why = _undividable(cls)
        if why:
            found.append((f"adapter=[{name}]", why))
    if (config.get("callbacks") or {}).get("average"):
        found.append(("callbacks.average", "keeps a whole copy of the weights"))
    for name, node in (config.get("regularizer") or {}).items():
        if str(node["_target_"]).rpartition(".")[2] in _OF_WEIGHTS:
            found.append((f"regularizer=[{name}]", "reads whole weights"))
    if config.get("balance") == "uncertainty" and config.get("tasks"):
        found.append(("balance=uncertainty", "learns weights that are no part of the network"))
    if config["cache"]["features"] in ("full", "prefix"):
        mode = config["cache"]["features"]
        found.append((f"cache.features={mode}", "runs parts of the network by themselves"))
    if config["compile"]:
        found.append(
            (f"compile={config['compile']}", "was not tried far enough with divided weights")
        )
    if config["trainer"].get("sync_batchnorm"):
        found.append(("trainer.sync_batchnorm=true", "is not heard by this strategy"))
    return [f"{what} {why}, which trainer=fsdp cannot do; type trainer=ddp" for what, why in found]


def _undividable(cls: type[Adapter]) -> str:
    """Return why a method cannot learn with divided weights; empty if it can."""
    if cls.alternates:
        return "takes several steps of the optimizer a batch"
    if cls.twin is not None:
        return "keeps a second copy of the model"
    if cls.prepare is not Adapter.prepare:
        return "changes the network's own layers"
    return "reads the whole target before an epoch" if cls.uses_bank else ""
