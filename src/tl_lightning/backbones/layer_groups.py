"""The layers of any network as neighbouring groups from input to output, and as a chain of them.

What torchvision and timm build is, for most families, a row of modules: some layers, a body of
blocks, pooling, a classifier. The row is read off the network; whether its forward is really that
row is then tried out, because some do more between the modules than the modules say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.types import LayerGroup, Parted

__all__ = ["as_it_was", "chain_of", "groups_of"]

#: Containers whose own children are the layers that count.
_BODIES = ("features", "blocks", "stages", "layers", "encoder", "trunk_output")
_LAST = ("classifier", "heads", "head", "fc")
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, Parted)

#: What networks do between the body and the classifier without a module of its own.
_JOINS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "flatten": lambda x: x.flatten(1),
    "pool": lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "relu and pool": lambda x: functional.adaptive_avg_pool2d(x.relu(), 1).flatten(1),
}


def _row(net: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that count in their order, with the names that the network gives them."""
    for name, module in net.named_children():
        if name in _BODIES and any(True for _ in module.children()):
            yield from _row(module, f"{prefix}{name}.")
        elif name in _LAST and type(module) is nn.Sequential:
            yield from ((f"{prefix}{name}.{key}", part) for key, part in module.named_children())
        else:
            yield f"{prefix}{name}", module


def _starts(module: nn.Module) -> bool:
    """Whether a group begins here: norms, also a domain's own, and what cannot learn do not."""
    return any(True for _ in module.parameters()) and not isinstance(module, _NORMS)


def groups_of(net: nn.Module, join: str | None = None) -> list[LayerGroup]:
    """Return the layer groups of a network from input to output.

    Every parameter is in exactly one of them. Bare parameters, such as a ViT's class token, belong
    to the first.

    Args:
        net: Without its classifier (an identity may stand there).
        join: How its body and its classifier are joined, from :func:`chain_of`; None if the network
            is no chain.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    >>> [(group.name, len(group.parameters)) for group in groups_of(net)]
    [('0', 4), ('3', 2)]
    """
    bundles: list[tuple[str, list[tuple[str, nn.Module]]]] = []
    for name, module in _row(net):
        idle = len(bundles) == 1 and not any(_starts(part) for _, part in bundles[0][1])
        if not bundles or (_starts(module) and not idle):
            bundles.append((name, []))
        bundles[-1][1].append((name, module))
    seen: set[int] = set()
    owned = [
        [p for _, module in row for p in module.parameters() if _fresh(p, seen)]
        for _, row in bundles
    ]
    owned[0] += [p for p in net.parameters() if _fresh(p, seen)]
    return [
        LayerGroup(
            name,
            tuple(module for _, module in row),
            tuple(parameters),
            None if join is None else partial(_run, row, join),
        )
        for (name, row), parameters in zip(bundles, owned, strict=True)
    ]


def _fresh(parameter: nn.Parameter, seen: set[int]) -> bool:
    new = id(parameter) not in seen
    seen.add(id(parameter))
    return new


def _run(row: list[tuple[str, nn.Module]], join: str, x: Tensor) -> Tensor:
    """Apply the modules of one group; the first of the classifier comes after the join."""
    for name, module in row:
        parts = name.split(".")
        if parts[0] in _LAST and parts[1:] in ([], ["0"]):
            x = _JOINS[join](x)
        x = module(x)
    return x


def chain_of(net: nn.Module, size: int) -> str | None:
    """Return the join with which the groups in a row equal the network's forward, or None.

    Tried out on two pictures of noise, bit for bit: in evaluation mode, and in training mode with
    the same random draws, for some networks drop features without a module that says so.

    Args:
        net: The network without its classifier.
        size: Height and width of the pictures it takes.
    """
    place = next(net.parameters()).device
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(place)
    with as_it_was(net) as draws, torch.no_grad():

        def equals(join: str, training: bool) -> bool:
            groups = groups_of(net, join)
            net.train(training)
            try:
                draws.manual_seed(0)
                wanted = net(noise).flatten(1)
                draws.manual_seed(0)
                return torch.equal(_through(groups, noise).flatten(1), wanted)
            except Exception:  # networks refuse in many ways what is not their own forward's
                return False

        return next((join for join in _JOINS if equals(join, False) and equals(join, True)), None)


def _through(groups: list[LayerGroup], x: Tensor) -> Tensor:
    for group in groups:
        assert group.run is not None
        x = group.run(x)
    return x


@contextlib.contextmanager
def as_it_was(net: nn.Module) -> Iterator[torch.Generator]:
    """Yield the generator that the network draws from; then put back what a try has changed.

    Modes, buffers and the generator's state are as before, so that trying leaves no trace.
    """
    place = next(net.parameters()).device
    draws = (
        torch.cuda.default_generators[place.index or 0]
        if place.type == "cuda"
        else torch.default_generator
    )
    state = draws.get_state()
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield draws
    finally:
        draws.set_state(state)
        for module, training in modes:
            module.training = training
        for buffer, value in buffers:
            buffer.copy_(value)
