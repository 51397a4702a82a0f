"""What backbones made of other libraries' networks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from tl_lightning.backbones.checkpointing import recomputed
from tl_lightning.backbones.groups import chain_of, groups_of
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

    def take(self, net: nn.Module, name: str, grad_checkpointing: bool) -> None:
        """Hold the network, once ``input_spec`` stands.

        Raises:
            ConfigError: If activations cannot be computed again though they should.
        """
        self.net = net
        self.name = name
        self.recompute = grad_checkpointing and self._can_recompute()

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

    def _can_recompute(self) -> bool:
        """Whether it is done here, by groups; a network that does it by itself is told to."""
        if self.layer_groups(chain=True)[-1].run is not None:
            return True
        if not hasattr(self.net, "set_grad_checkpointing"):
            raise ConfigError(
                f"{self.name} is no chain of layers, so that backbone.grad_checkpointing=true has "
                "nothing to divide; type backbone.grad_checkpointing=false, or use timm's network"
            )
        switch: Callable[[bool], None] = self.net.set_grad_checkpointing  # type: ignore[assignment]
        switch(True)
        return False


def _flat(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return run(x).flatten(1)
