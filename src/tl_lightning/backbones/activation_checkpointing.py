"""Activation checkpointing: recompute activations in the backward pass to save memory.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174, 2016. Running
statistics of batch norm are updated only once, although layers run twice in training mode.
Domain-aware norms get back the domains of the original forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tl_lightning.layers import DomainAwareNorm, Part
from tl_lightning.types import LayerGroup

__all__ = ["recomputed"]


def recomputed(groups: Sequence[LayerGroup], x: Tensor) -> Tensor:
    """Run a chain of layer groups, storing only the activations between groups.

    Args:
        groups: Layer groups with ``run`` set.
        x: Input of the first group.
    """
    for group in groups:
        assert group.run is not None
        # The reentrant variant loses gradients if the input does not require them.
        x = checkpoint(
            group.run, x, use_reentrant=False, context_fn=partial(_contexts, group.modules)
        )
    return x


def _contexts(
    modules: Sequence[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    layers = [layer for module in modules for layer in module.modules()]
    # Captured during the original forward pass.
    domains = [(layer, layer.parts) for layer in layers if isinstance(layer, DomainAwareNorm)]
    return nullcontext(), _recomputing(modules, domains)


@contextlib.contextmanager
def _recomputing(
    modules: Sequence[nn.Module],
    domains: Sequence[tuple[DomainAwareNorm, Sequence[Part]]],
) -> Iterator[None]:
    """Reproduce the state of the original forward pass."""
    current = [layer.parts for layer, _ in domains]
    for layer, parts in domains:
        layer.parts = parts
    try:
        with _frozen_statistics(modules):
            yield
    finally:
        for (layer, _), parts in zip(domains, current, strict=True):
            layer.parts = parts


@contextlib.contextmanager
def _frozen_statistics(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Keep the running statistics of all batch norms unchanged."""
    norms = [
        norm
        for module in modules
        for norm in module.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training
    ]
    state = [(norm, norm.momentum, _batch_count(norm)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in state:
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)


def _batch_count(norm: nn.modules.batchnorm._BatchNorm) -> Tensor | None:
    with torch.no_grad():
        return None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
