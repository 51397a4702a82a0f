"""Batch norm that normalises by the statistics of the batch and of training.

Schneider, Rusak, Eck, Bringmann, Brendel, Bethge (2020): Improving robustness against common
corruptions by covariate shift adaptation. NeurIPS.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["adapt_statistics", "has_statistics"]


def has_statistics(norm: nn.Module) -> bool:
    """Return whether a layer normalises by statistics of training."""
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None


def adapt_statistics(norms: Iterable[nn.Module], prior: float) -> None:
    r"""Let layers in evaluation mode normalise by a mixture of two statistics.

    Mean and variance are :math:`\frac{N}{N + n} s + \frac{n}{N + n} t`, with those of training
    :math:`s`, and those of the batch :math:`t`, which has :math:`n` samples. Gradients reach the
    statistics of the batch. Layers without statistics of training are left as they are, and the
    statistics of training are used alone if a channel has a single value, which has no variance.

    Args:
        norms: Normalisation layers of any kind.
        prior: The number :math:`N`.
    """

    def mixed(norm: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        if x.numel() < 2 * x.shape[1]:  # all outputs would be the shift of the layer
            return (x,)
        share = len(x) / (len(x) + prior)
        var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        mean = norm.running_mean.lerp(mean, share)
        var = norm.running_var.lerp(var, share)
        # The layer itself subtracts its mean and divides by its deviation, which undoes this.
        scale = ((norm.running_var + norm.eps) / (var + norm.eps)).sqrt()
        shift = norm.running_mean - mean * scale
        shape = (1, -1, *[1] * (x.dim() - 2))
        return (x * scale.view(shape) + shift.view(shape),)

    for norm in norms:
        if has_statistics(norm):
            norm.register_forward_pre_hook(mixed)
