"""What backbones made of other libraries' networks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.backbones.activation_checkpointing import recomputed
from tl_lightning.backbones.layer_groups import as_it_was, chain_of, groups_of
from tl_lightning.errors import ConfigError
from tl_lightning.types import InputSpec, LayerGroup

__all__ = ["Network"]

#: How the networks met so far are joined, by what they are: found out once a process.
_joins: dict[tuple[str, str, int], str | None] = {}


class Network(nn.Module):
    """A network without its classifier, from pictures to features.

    Attributes:
        net: The network.
        name: Its library's name for it.
        input_spec: What it expects of a picture.
    """

    net: nn.Module
    name: str
    input_spec: InputSpec

    def take(self, net: nn.Module, name: str, size: int | None, grad_checkpointing: bool) -> None:
        """Hold the network, once ``input_spec`` stands.

        Args:
            net: Without its classifier.
            name: Its library's name for it.
            size: What was asked for of ``input_spec.size``; None if nothing was.
            grad_checkpointing: Whether activations are computed again in the backward pass.

        Raises:
            ConfigError: If it cannot take pictures of that size, or activations cannot be computed
                again though they should.
        """
        self.net = net
        self.name = name
        if size is not None:
            self._try(size)
        self.recompute = grad_checkpointing and self._can_recompute()

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        size = knobs.get("size")
        if size is None or size > 0:
            return []
        return [f"{where}.size={size} is not above 0; type {where}.size=null or {where}.size=96"]

    def forward(self, inputs: Tensor) -> Tensor:
        """Map normalised pictures ``(B, 3, H, W)`` to ``(B, D)``."""
        if self.recompute and self.training:
            return recomputed(self.layer_groups(chain=True), inputs)
        out: Tensor = self.net(inputs)
        return out.flatten(1)

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return the layer groups under the library's names; see :func:`groups_of`.

        Args:
            chain: Whether ``run`` is wanted; that they are a chain is tried out the first time.
        """
        if not chain:
            return groups_of(self.net)
        size = self.input_spec.size
        key = (type(self).__name__, self.name, size)
        if key not in _joins:
            _joins[key] = chain_of(self.net, size)
        groups = groups_of(self.net, _joins[key])
        last = groups[-1]
        if last.run is not None:
            groups[-1] = replace(last, run=partial(_flat, last.run))
        return groups

    def _try(self, size: int) -> None:
        with as_it_was(self.net), torch.no_grad():
            try:
                self.net.eval()(torch.zeros(1, 3, size, size))
            except Exception as error:  # each network refuses in its own way
                raise ConfigError(
                    f"{self.name} cannot take pictures of backbone.size={size} pixels "
                    f"({str(error).splitlines()[0]}); type backbone.size=null for the size that "
                    "its weights were trained with"
                ) from error

    def _can_recompute(self) -> bool:
        """Whether it is done here, by groups; a network that does it by itself is told to."""
        if self.layer_groups(chain=True)[-1].run is not None:
            return True
        advice = "type backbone.grad_checkpointing=false"
        if not hasattr(self.net, "set_grad_checkpointing"):
            raise ConfigError(
                f"{self.name} is no chain of layers, so that backbone.grad_checkpointing=true has "
                f"nothing to divide; {advice}, or use timm's network"
            )
        if any(isinstance(module, _BatchNorm) for module in self.net.modules()):
            raise ConfigError(
                f"{self.name} is no chain of layers and has batch norm, whose statistics would "
                f"move twice a step with backbone.grad_checkpointing=true; {advice}"
            )
        switch: Callable[[bool], None] = self.net.set_grad_checkpointing  # type: ignore[assignment]
        try:
            switch(True)
        except AssertionError as error:
            raise ConfigError(
                f"timm cannot recompute {self.name} (backbone.grad_checkpointing=true: {error}); "
                f"{advice}"
            ) from error
        return False


def _flat(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return run(x).flatten(1)
