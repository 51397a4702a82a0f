"""Layers of backbones, heads and methods: activations, perceptrons, layers aware of domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS", "MONOTONE", "Activation", "DomainAwareNorm", "Part", "activation",
    "hidden_layer", "perceptron",
]  # fmt: skip

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "silu", "leaky_relu", "elu", "identity"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "identity": nn.Identity,
}

#: Non-decreasing activations; gelu and silu are not monotonic below zero.
MONOTONE: frozenset[Activation] = frozenset(get_args(Activation)) - {"gelu", "silu"}


def activation(name: Activation) -> nn.Module:
    """Return a new activation module by name.

    >>> activation("tanh")
    Tanh()
    """
    return ACTIVATIONS[name]()


def hidden_layer(
    d: int, width: int, norm: Literal["none", "batch", "layer"], act: Activation
) -> list[nn.Module]:
    """Return a linear layer from ``d`` to ``width`` features, normalisation and activation."""
    layers: list[nn.Module] = [nn.Linear(d, width)]
    if norm != "none":
        layers.append(nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width))
    return [*layers, activation(act)]


def perceptron(
    d: int,
    width: int,
    depth: int,
    dropout: float,
    act: Activation,
    out: int = 1,
    norm: Literal["none", "batch"] = "none",
) -> nn.Sequential:
    """Return an MLP from ``d`` to ``out`` features with ``depth`` hidden layers of ``width``."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [*hidden_layer(d, width, norm, act), nn.Dropout(dropout)]
        d = width
    return nn.Sequential(*layers, nn.Linear(d, out))


class Part(NamedTuple):
    """A slice of a batch whose samples are all from the source, or all from the target.

    Attributes:
        domain: ``source`` or ``target``.
        size: Number of samples.
        rows: For each of several named domains of the source, by its index, the rows of its samples
            in the slice; domains without samples are missing. None if it is not known or not used.
    """

    domain: str
    size: int
    rows: Mapping[int, Tensor] | None = None


class DomainAwareNorm(nn.Module):
    """A normalisation layer that handles each domain's part of a batch separately.

    Attributes:
        parts: The slices in batch order; must be set before every forward pass.
        by_source: Whether it needs :attr:`Part.rows`.
    """

    parts: Sequence[Part]
    by_source: bool = False
