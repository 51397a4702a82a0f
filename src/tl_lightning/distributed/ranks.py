"""Which rank this is, and values agreed between ranks."""

from __future__ import annotations

import os

import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["rank", "rank_mean", "same_buffers"]


def rank() -> int:
    """Return this process's rank, before and after the ranks are connected."""
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_rank())
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def rank_mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the ranks, without gradients; alone, the tensor.

    What a rank divides by this has the same gradient, in the mean over ranks, as one process with
    the batch of all of them.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def same_buffers(module: nn.Module) -> None:
    """Give every rank the first one's buffers, such as batch norm's running statistics.

    Each rank moves them by its own pictures, and a checkpoint holds the first one's: without this
    the ranks would evaluate somewhat different models, none of them the one that is kept.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.broadcast(buffer, src=0)
