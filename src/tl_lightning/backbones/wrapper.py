"""Base class of backbones that wrap networks of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.backbones.activation_checkpointing import recomputed
from tl_lightning.backbones.layer_groups import as_it_was, chain_of, groups_of
from tl_lightning.errors import ConfigError
from tl_lightning.types import InputSpec, LayerGroup

__all__ = ["FreezeBN", "Network"]

#: Parts of pretrained batch norm to keep: none, the statistics, or also scale and shift.
FreezeBN = bool | Literal["all"]

#: Cached results of :func:`chain_of` by class, name and size.
_joins: dict[tuple[str, str, int], str | None] = {}


class Network(nn.Module):
    """A network of another library without its classifier.

    Attributes:
        net: The network.
        name: Name of the network in its library.
        input_spec: Expected image format.
    """

    net: nn.Module
    name: str
    input_spec: InputSpec

    def take(
        self,
        net: nn.Module,
        name: str,
        size: int | None,
        grad_checkpointing: bool,
        freeze_bn: FreezeBN,
    ) -> None:
        """Set the network; ``input_spec`` must be set before.

        Args:
            net: The network without its classifier.
            name: Name of the network in its library.
            size: Requested image size, or None for the default.
            grad_checkpointing: Whether to use activation checkpointing.
            freeze_bn: Whether batch norm keeps its mean and variance while the network is trained,
                and normalises with them; ``"all"`` also keeps its scale and shift.

        Raises:
            ConfigError: If the network does not support the image size or activation checkpointing.
        """
        self.net = net
        self.name = name
        if size is not None:
            self._check_size(size)
        self.freeze_bn = freeze_bn
        if freeze_bn == "all":
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        self.recompute = grad_checkpointing and self._recomputes_groups()

    def _batch_norms(self) -> Iterator[_BatchNorm]:
        return (module for module in self.modules() if isinstance(module, _BatchNorm))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; frozen batch norm stays in evaluation mode."""
        super().train(mode)
        if self.freeze_bn:
            for norm in self._batch_norms():
                norm.eval()
        return self

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message for each invalid setting."""
        size = params.get("size")
        if size is None or size > 0:
            return []
        return [f"{where}.size={size} must be positive; set {where}.size=null or {where}.size=96"]

    def forward(self, inputs: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to ``(B, D)``."""
        if self.recompute and self.training:
            return recomputed(self.layer_groups(chain=True), inputs)
        out: Tensor = self.net(inputs)
        return out.flatten(1)

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return the layer groups with the network's module names; see :func:`groups_of`.

        Args:
            chain: Whether to set ``run``; the first time, this takes trial forward passes.
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
            groups[-1] = replace(last, run=partial(_flattened, last.run))
        return groups

    def _check_size(self, size: int) -> None:
        with as_it_was(self.net), torch.no_grad():
            try:
                self.net.eval()(torch.zeros(1, 3, size, size))
            except Exception as error:  # the exception depends on the network
                raise ConfigError(
                    f"backbone.size={size} is not supported with {self.name} "
                    f"({str(error).splitlines()[0]}); set backbone.size=null for the size that "
                    "the weights were trained with"
                ) from error

    def _recomputes_groups(self) -> bool:
        """Return whether to recompute by layer group; otherwise enable it in the network."""
        if self.layer_groups(chain=True)[-1].run is not None:
            return True
        problem = f"backbone.grad_checkpointing=true is not supported with {self.name}"
        advice = "set backbone.grad_checkpointing=false"
        if not hasattr(self.net, "set_grad_checkpointing"):
            raise ConfigError(
                f"{problem}, which is not a chain of layers; {advice}, or use the timm network"
            )
        if any(isinstance(module, _BatchNorm) for module in self.net.modules()):
            raise ConfigError(
                f"{problem}, which is not a chain of layers and has batch norm, whose statistics "
                f"would be updated twice per step; {advice}"
            )
        enable: Callable[[bool], None] = self.net.set_grad_checkpointing  # type: ignore[assignment]
        try:
            enable(True)
        except AssertionError as error:
            raise ConfigError(f"{problem} in timm ({error}); {advice}") from error
        return False


def _flattened(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return run(x).flatten(1)
