"""Differentiable gathering of all ranks' batches, for losses that are batch statistics."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tl_lightning.types import View

__all__ = ["gathered", "gathered_tensor"]


class _Gather(torch.autograd.Function):
    """Concatenate over ranks; the gradient of a rank's part is the sum over all ranks.

    Every rank computes the same loss on the whole batch, so the sum is ``world`` times the gradient
    of that loss; DDP's mean over ranks divides by ``world`` again.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        ctx.rank, ctx.size = dist.get_rank(), len(part)
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        whole = grads[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole[ctx.rank * ctx.size : (ctx.rank + 1) * ctx.size]


def gathered_tensor(part: Tensor) -> Tensor:
    """Return the tensors of all ranks concatenated, differentiably; for one rank, ``part``.

    Args:
        part: ``(B, ...)``, with the same shape on every rank.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return part
    whole: Tensor = _Gather.apply(part)
    return whole


def gathered(view: View) -> View:
    """Return a view with the samples of all ranks."""
    parts = {name: value for name, value in vars(view).items() if isinstance(value, Tensor)}
    return View(**{name: gathered_tensor(part) for name, part in parts.items()})
