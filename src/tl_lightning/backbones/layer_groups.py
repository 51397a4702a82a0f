"""Layer groups of arbitrary networks, from input to output, and as a chain if possible.

Most torchvision and timm networks are a sequence of modules: a stem, a body of blocks, pooling and
a classifier. The sequence is derived from the network's children. Whether the network's forward
pass is this sequence is then tested, because some networks apply functions between modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.layers import DomainAwareNorm
from tl_lightning.types import LayerGroup

__all__ = ["as_it_was", "chain_of", "groups_of"]

#: Containers that are replaced by their children.
_BODIES = ("features", "blocks", "stages", "layers", "encoder", "trunk_output")
_LAST = ("classifier", "heads", "head", "fc")
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, DomainAwareNorm)

#: Functions that networks apply between body and classifier without a module.
_JOINS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "flatten": lambda x: x.flatten(1),
    "pool": lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "relu and pool": lambda x: functional.adaptive_avg_pool2d(x.relu(), 1).flatten(1),
}


def _sequence(net: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of the network in order, with their names."""
    for name, module in net.named_children():
        if name in _BODIES and any(True for _ in module.children()):
            yield from _sequence(module, f"{prefix}{name}.")
        elif name in _LAST and type(module) is nn.Sequential:
            yield from ((f"{prefix}{name}.{key}", part) for key, part in module.named_children())
        else:
            yield f"{prefix}{name}", module


def _starts_group(module: nn.Module) -> bool:
    """Return whether a module starts a group: it has parameters and is not a normalisation."""
    return any(True for _ in module.parameters()) and not isinstance(module, _NORMS)


def groups_of(net: nn.Module, join: str | None = None) -> list[LayerGroup]:
    """Return the layer groups of a network from input to output.

    Every parameter is in exactly one group. Parameters of the network itself, such as a ViT's class
    token, belong to the first group.

    Args:
        net: The network without its classifier (or with an identity in its place).
        join: Function between body and classifier, from :func:`chain_of`; None if the network is
            not a chain.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    >>> [(group.name, len(group.parameters)) for group in groups_of(net)]
    [('0', 4), ('3', 2)]
    """
    groups: list[tuple[str, list[tuple[str, nn.Module]]]] = []
    for name, module in _sequence(net):
        # Leading modules without a group of their own are merged with the first group.
        merge = len(groups) == 1 and not any(_starts_group(part) for _, part in groups[0][1])
        if not groups or (_starts_group(module) and not merge):
            groups.append((name, []))
        groups[-1][1].append((name, module))
    seen: set[int] = set()
    owned = [
        [p for _, module in layers for p in module.parameters() if _add(p, seen)]
        for _, layers in groups
    ]
    owned[0] += [p for p in net.parameters() if _add(p, seen)]
    return [
        LayerGroup(
            name,
            tuple(module for _, module in layers),
            tuple(parameters),
            None if join is None else partial(_run, layers, join),
        )
        for (name, layers), parameters in zip(groups, owned, strict=True)
    ]


def _add(parameter: nn.Parameter, seen: set[int]) -> bool:
    new = id(parameter) not in seen
    seen.add(id(parameter))
    return new


def _run(layers: list[tuple[str, nn.Module]], join: str, x: Tensor) -> Tensor:
    """Apply the modules of one group, with the join before the first classifier module."""
    for name, module in layers:
        parts = name.split(".")
        if parts[0] in _LAST and parts[1:] in ([], ["0"]):
            x = _JOINS[join](x)
        x = module(x)
    return x


def chain_of(net: nn.Module, size: int) -> str | None:
    """Return the join with which the chain of groups equals the network's forward, or None.

    Tested bit for bit on two noise images, in evaluation mode and in training mode with the same
    random draws, because some networks use functional dropout.

    Args:
        net: The network without its classifier.
        size: Height and width of the images.
    """
    device = next(net.parameters()).device
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    with as_it_was(net) as generator, torch.no_grad():

        def equals(join: str, training: bool) -> bool:
            groups = groups_of(net, join)
            net.train(training)
            try:
                generator.manual_seed(0)
                expected = net(noise).flatten(1)
                generator.manual_seed(0)
                return torch.equal(_run_chain(groups, noise).flatten(1), expected)
            except Exception:  # a wrong chain may raise anything
                return False

        return next((join for join in _JOINS if equals(join, False) and equals(join, True)), None)


def _run_chain(groups: list[LayerGroup], x: Tensor) -> Tensor:
    for group in groups:
        assert group.run is not None
        x = group.run(x)
    return x


@contextlib.contextmanager
def as_it_was(net: nn.Module) -> Iterator[torch.Generator]:
    """Yield the network's random generator, and restore the state of both on exit.

    Restores the training modes, the buffers and the generator's state, so that a trial forward pass
    has no side effects.
    """
    device = next(net.parameters()).device
    generator = (
        torch.cuda.default_generators[device.index or 0]
        if device.type == "cuda"
        else torch.default_generator
    )
    state = generator.get_state()
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield generator
    finally:
        generator.set_state(state)
        for module, training in modes:
            module.training = training
        for buffer, value in buffers:
            buffer.copy_(value)
