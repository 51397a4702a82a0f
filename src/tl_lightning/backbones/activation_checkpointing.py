"""Activations thrown away and computed again in the backward pass: less memory, a third more work.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174, 2016. Computing a
layer again in training mode would move the running statistics of its batch norms twice; here they
move once. Layers that were told whose samples are whose hear it again: other samples may have
passed since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tl_lightning.types import LayerGroup, Parted

__all__ = ["recomputed"]


def recomputed(groups: Sequence[LayerGroup], x: Tensor) -> Tensor:
    """Run a chain of layer groups, keeping for the backward pass only what goes between them.

    Args:
        groups: A chain: every ``run`` is there.
        x: The input of the first.
    """
    for group in groups:
        assert group.run is not None
        # Not reentrant: that would cut off gradients where the input needs none.
        x = checkpoint(
            group.run, x, use_reentrant=False, context_fn=partial(_contexts, group.modules)
        )
    return x


def _contexts(
    modules: Sequence[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    layers = [layer for module in modules for layer in module.modules()]
    # As they are now, in the forward.
    told = [(layer, layer.parts) for layer in layers if isinstance(layer, Parted)]
    return nullcontext(), _again(modules, told)


@contextlib.contextmanager
def _again(
    modules: Sequence[nn.Module], told: Sequence[tuple[Parted, Sequence[tuple[str, int]]]]
) -> Iterator[None]:
    """Compute as in the forward."""
    now = [layer.parts for layer, _ in told]
    for layer, parts in told:
        layer.parts = parts
    try:
        with _still(modules):
            yield
    finally:
        for (layer, _), parts in zip(told, now, strict=True):
            layer.parts = parts


@contextlib.contextmanager
def _still(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Keep the running statistics of all batch norms as they are."""
    norms = [
        norm
        for module in modules
        for norm in module.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training
    ]
    before = [(norm, norm.momentum, _count(norm)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)


def _count(norm: nn.modules.batchnorm._BatchNorm) -> Tensor | None:
    with torch.no_grad():
        return None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
