"""Several processes: how many there are, which strategy can train what, and the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch

__all__ = [
    "STRATEGIES",
    "alone",
    "follows",
    "global_batch",
    "lr_factor",
    "processes",
    "sharded",
    "with_timeout",
]

# Plain DDP waits for gradients of what a phase has frozen.
STRATEGIES = {
    name: f"{name}_find_unused_parameters_true"
    for name in ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")
}


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
    """Return the images of a domain behind one step of the optimizer, of all processes."""
    trainer = config["trainer"]
    own = int(config["data"]["batch_size"]) * int(trainer["accumulate_grad_batches"])
    return own * processes(trainer)


def lr_factor(config: Mapping[str, Any]) -> float:
    """Return the factor on every learning rate by the linear scaling rule.

    Goyal et al. (2017): Accurate, Large Minibatch SGD. arXiv:1706.02677. ``lr * B / B_0``, with
    ``B`` the batch of all processes and ``B_0 = reference_batch_size``; 1 where that is null.

    >>> trainer = {"devices": 4, "num_nodes": 1, "accelerator": "cpu", "accumulate_grad_batches": 2}
    >>> data = {"batch_size": 32}
    >>> lr_factor({"trainer": trainer, "data": data, "reference_batch_size": 64})
    4.0
    """
    reference = config.get("reference_batch_size")
    return 1.0 if reference is None else global_batch(config) / int(reference)


def sharded(trainer: Mapping[str, Any]) -> bool:
    """Return whether the weights are divided over the processes."""
    strategy = trainer["strategy"]
    return isinstance(strategy, Mapping) and str(strategy.get("_target_")).endswith(".Sharded")


def follows(strategy: Any) -> bool:
    """Return whether a strategy follows what changes in mid-run: what learns."""
    if isinstance(strategy, Mapping):
        return strategy.get("find_unused_parameters") is True
    return strategy in ("auto", *STRATEGIES, *STRATEGIES.values())


def with_timeout(strategy: Any, seconds: float | None) -> Any:
    """Return a strategy whose ranks wait for one another no longer than ``seconds``.

    Args:
        strategy: As the trainer takes it; one that is not DDP is left as it is.
        seconds: None for PyTorch's own time.

    >>> with_timeout("auto", 5.0)
    'auto'
    """
    from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

    if seconds is None or not isinstance(strategy, str) or strategy not in StrategyRegistry:
        return strategy
    entry = StrategyRegistry[strategy]
    if not issubclass(entry["strategy"], DDPStrategy):
        return strategy
    return entry["strategy"](**entry["init_params"], timeout=timedelta(seconds=seconds))
