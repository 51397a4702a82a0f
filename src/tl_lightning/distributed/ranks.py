"""Rank of this process, and values reduced or synchronised over ranks."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["gathered", "rank", "rank_mean", "same_buffers", "with_mean_one"]


def rank() -> int:
    """Return the rank of this process; also works before the process group is initialised."""
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_rank())
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def gathered(value: Any) -> list[Any]:
    """Return the value of every rank in the order of ranks; those of one process are ``[value]``.

    Args:
        value: Any object that can be pickled. All ranks must call this.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def rank_mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, detached.

    If each rank divides by this mean, the gradient averaged over ranks equals that of a single
    process with the batches of all ranks.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def with_mean_one(weights: Tensor) -> Tensor:
    """Return weights ``(B,)`` scaled to a mean of 1 over the batches of all ranks."""
    return weights / rank_mean(weights.mean()).clamp_min(1e-12)


def same_buffers(module: nn.Module) -> None:
    """Broadcast the floating point buffers of rank 0, such as batch norm statistics.

    Each rank updates its buffers on its own samples, and checkpoints contain those of rank 0.
    Without this, ranks would evaluate slightly different models.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.broadcast(buffer, src=0)
