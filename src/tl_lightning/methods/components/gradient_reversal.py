"""Gradient reversal layer: identity in the forward pass, negated gradient in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["reverse_gradient"]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return -ctx.scale * grads[0], None


def reverse_gradient(x: Tensor, scale: float) -> Tensor:
    """Return ``x``; its gradient is multiplied by ``-scale`` in the backward pass.

    Ganin et al. (2016), JMLR 17(59).

    >>> x = torch.ones(2, requires_grad=True)
    >>> reverse_gradient(x, 0.5).sum().backward()
    >>> x.grad.tolist()
    [-0.5, -0.5]
    """
    out: Tensor = _Reverse.apply(x, scale)
    return out
