"""Several processes: how many there are, which strategy can train what, and the learning rate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tl_lightning.adaptation_faults import adapters_of, may_rest
from tl_lightning.adapters.base import Adapter

__all__ = [
    "alone", "follows", "global_batch", "lr_factor", "processes", "resolve_strategy", "sharded",
    "strategy_faults",
]  # fmt: skip

Config = dict[str, Any]

# Plain DDP waits for gradients of what a phase has frozen.
_STRATEGIES = {
    name: f"{name}_find_unused_parameters_true"
    for name in ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")
}
#: Strategies of Lightning's that cannot train what we build, and why.
_REFUSED = {
    "fsdp": "is Lightning's older FSDP, which knows nothing of the parts that a step calls",
    "deepspeed": "writes folders of pieces in place of checkpoints, which nothing here reads",
    "dp": "was removed from Lightning",
}
#: Terms of the loss that are made of the weights themselves.
_OF_WEIGHTS = ("L1", "L2", "L2SP")


def processes(trainer: Mapping[str, Any]) -> int:
    """Return how many processes train together.

    >>> processes({"devices": 4, "num_nodes": 2, "accelerator": "cpu"})
    8
    >>> processes({"devices": "auto", "num_nodes": 1, "accelerator": "cpu"})
    1
    >>> processes({"devices": [0, 2], "num_nodes": 1, "accelerator": "gpu"})
    2
    """
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        own = len(devices)
    elif str(devices) in ("auto", "-1"):
        own = torch.cuda.device_count() if trainer["accelerator"] in ("gpu", "cuda") else 1
    else:
        own = int(devices)
    return max(1, own) * int(trainer["num_nodes"])


def alone(trainer: Mapping[str, Any]) -> bool:
    """Return whether one process trains, for certain."""
    return str(trainer["devices"]) == "1" and trainer["num_nodes"] == 1


def global_batch(config: Mapping[str, Any]) -> int:
    """Return the pictures of a domain behind one step of the optimizer, of all processes."""
    trainer = config["trainer"]
    own = int(config["data"]["batch_size"]) * int(trainer["accumulate_grad_batches"])
    return own * processes(trainer)


def lr_factor(config: Mapping[str, Any]) -> float:
    """Return the factor on every learning rate by the linear scaling rule.

    Goyal et al. (2017): Accurate, Large Minibatch SGD. arXiv:1706.02677. ``lr * B / B_0``, with
    ``B`` the batch of all processes and ``B_0 = lr_for_batch``; 1 where that is null.

    >>> trainer = {"devices": 4, "num_nodes": 1, "accelerator": "cpu", "accumulate_grad_batches": 2}
    >>> data = {"batch_size": 32}
    >>> lr_factor({"trainer": trainer, "data": data, "lr_for_batch": 64})
    4.0
    """
    reference = config.get("lr_for_batch")
    return 1.0 if reference is None else global_batch(config) / int(reference)


def sharded(trainer: Mapping[str, Any]) -> bool:
    """Return whether the weights are divided over the processes."""
    strategy = trainer["strategy"]
    return isinstance(strategy, Mapping) and str(strategy.get("_target_")).endswith(".Sharded")


def follows(strategy: Any) -> bool:
    """Return whether a strategy follows what changes in mid-run: what learns."""
    if isinstance(strategy, Mapping):
        return strategy.get("find_unused_parameters") is True
    return strategy in ("auto", *_STRATEGIES, *_STRATEGIES.values())


def resolve_strategy(config: Config) -> None:
    """Choose a strategy that lets parameters rest where some do."""
    trainer = config["trainer"]
    if sharded(trainer):
        if config["cache"]["features"] == "auto":  # they would be computed by divided networks
            config["cache"]["features"] = "off"
        if config["optimizer"]["_target_"].endswith(".SGD"):
            config["optimizer"]["fused"] = False  # torch has no fused SGD for divided weights
    elif config.get("phases", {}).get("steps") or may_rest(config):
        strategy = trainer["strategy"]
        strategy = "ddp" if strategy == "auto" and not alone(trainer) else strategy
        if isinstance(strategy, str):
            trainer["strategy"] = _STRATEGIES.get(strategy, strategy)


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
