"""Activations by their usual names; one table for backbones, heads and adapters."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

__all__ = ["ACTIVATIONS", "MONOTONE", "Activation", "activation", "perceptron"]

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

#: These never decrease; gelu and silu dip below zero and rise again.
MONOTONE: frozenset[Activation] = frozenset(get_args(Activation)) - {"gelu", "silu"}


def activation(name: Activation) -> nn.Module:
    """Return a fresh activation module by its usual name.

    >>> activation("tanh")
    Tanh()
    """
    return ACTIVATIONS[name]()


def perceptron(
    d: int, width: int, depth: int, dropout: float, act: Activation, out: int = 1
) -> nn.Sequential:
    """Return ``depth`` hidden layers of ``width`` and a linear one to ``out``."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(d, width), activation(act), nn.Dropout(dropout)]
        d = width
    return nn.Sequential(*layers, nn.Linear(d, out))
