"""Strategies, number of processes, and scaling of the learning rate with the batch size."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch

from tl_lightning.config.instantiate import Node
from tl_lightning.config.schema import RunConfig, TrainerConfig
from tl_lightning.distributed.fsdp import Sharded

__all__ = [
    "STRATEGIES", "is_sharded", "lr_factor", "num_processes", "supports_freezing", "with_timeout",
]  # fmt: skip

#: Number of optimizer steps from which ``probe_lr_factor=auto`` is 1, and its smallest value.
FULL_RATE_STEPS = 2500
LEAST_FACTOR = 0.1

# Plain DDP waits for gradients of parameters that a phase has frozen.
STRATEGIES = {
    name: f"{name}_find_unused_parameters_true"
    for name in ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")
}


def num_processes(trainer: TrainerConfig) -> int:
    """Return the number of processes that train together."""
    devices = trainer.devices
    if isinstance(devices, str) and "," in devices:
        per_node = len([part for part in devices.split(",") if part.strip()])
    elif not isinstance(devices, int | str):
        per_node = len(devices)
    elif str(devices) in ("auto", "-1"):
        per_node = torch.cuda.device_count() if trainer.accelerator in ("gpu", "cuda") else 1
    else:
        per_node = int(devices)
    return max(1, per_node) * trainer.num_nodes


def lr_factor(run: RunConfig, samples: int) -> float:
    """Return the factor for all learning rates.

    It is ``probe_lr_factor`` if the head starts as a probe and the rate was not found by a test,
    times that of the linear scaling rule (Goyal et al. (2017): Accurate, Large Minibatch SGD.
    arXiv:1706.02677): ``lr * B / B_0``, with ``B`` the global batch size of a domain and ``B_0 =
    reference_batch_size``; 1 if that is null.

    Args:
        run: A checked configuration.
        samples: Number of training samples of an epoch.
    """
    factor = _probe_factor(run, samples) if run.head_init == "probe" and not run.lr_find else 1.0
    if run.reference_batch_size is None:
        return factor
    per_process = run.batch_size * run.trainer.accumulate_grad_batches
    return factor * per_process * num_processes(run.trainer) / run.reference_batch_size


def _probe_factor(run: RunConfig, samples: int) -> float:
    """Return ``probe_lr_factor``; ``auto`` depends on the number of optimizer steps."""
    if run.probe_lr_factor != "auto":
        return float(run.probe_lr_factor)
    batches = run.plain["data"].get("steps_per_epoch")
    batches = batches or samples / (run.batch_size * num_processes(run.trainer))
    steps = batches / run.trainer.accumulate_grad_batches * (run.trainer.max_epochs or 1000)
    if (run.trainer.max_steps or -1) > 0:
        steps = min(steps, run.trainer.max_steps)
    return min(1.0, max(LEAST_FACTOR, steps / FULL_RATE_STEPS))


def is_sharded(trainer: TrainerConfig) -> bool:
    """Return whether the weights are sharded over the processes."""
    strategy = trainer.strategy
    return isinstance(strategy, Node) and issubclass(strategy.cls, Sharded)


def supports_freezing(strategy: Any) -> bool:
    """Return whether a strategy supports parameters that are frozen or unfrozen during the run."""
    if isinstance(strategy, Node):
        return strategy.params.get("find_unused_parameters") is True
    return strategy in ("auto", *STRATEGIES, *STRATEGIES.values())


def with_timeout(strategy: Any, seconds: float | None) -> Any:
    """Return a strategy whose collective operations time out after ``seconds``.

    Args:
        strategy: The ``strategy`` argument of the trainer; returned unchanged if it is not DDP.
        seconds: Timeout, or None for PyTorch's default.

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
