"""A small network on vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tl_lightning.layers import Activation
from tl_lightning.layers import activation as make_activation
from tl_lightning.types import LayerGroup, VectorSpec

__all__ = ["VectorNet"]


class VectorNet(nn.Module):
    """Linear layers, each with an activation; without any, the vectors themselves.

    Args:
        in_features: Length ``F`` of the vectors; None in a configuration stands for the data's.
        widths: Of the layers' outputs; one layer is the network that Ganin et al. ("Domain-
            Adversarial Training of Neural Networks", JMLR 17(59), 2016) adapt sentiment with.
        activation: After each layer.
        dropout: Before each layer but the first.
        lr_factor: How fast it learns relative to new layers.

    >>> import torch
    >>> net = VectorNet(in_features=5, widths=[4, 3], activation="sigmoid", dropout=0.0,
    ...                 lr_factor=1.0)
    >>> net(torch.zeros(2, 5)).shape, net.out_features
    (torch.Size([2, 3]), 3)
    """

    takes: ClassVar[str] = "vectors"

    def __init__(
        self,
        *,
        in_features: int | None,
        widths: Sequence[int],
        activation: Activation,
        dropout: float,
        lr_factor: float,
    ) -> None:
        super().__init__()
        assert in_features is not None, "what builds the model asks the data"
        self.layers = nn.Sequential()
        last = in_features
        for number, width in enumerate(widths):
            parts: list[nn.Module] = [nn.Linear(last, width), make_activation(activation)]
            if dropout > 0 and number:
                parts.insert(0, nn.Dropout(dropout))
            self.layers.append(nn.Sequential(*parts))
            last = width
        self.out_features = last
        self.lr_factor = lr_factor
        self.input_spec = VectorSpec(width=in_features)

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        found = []
        if min(knobs["widths"], default=1) < 1:
            found.append(
                f"{where}.widths={list(knobs['widths'])} must be numbers above 0; type "
                f"{where}.widths=[50]"
            )
        if not 0 <= knobs["dropout"] < 1:
            found.append(
                f"{where}.dropout={knobs['dropout']} is not in [0, 1); type {where}.dropout=0.5"
            )
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Map vectors ``(B, F)`` to features ``(B, out_features)``."""
        out: Tensor = self.layers(x)
        return out

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return one group a layer."""
        return [
            LayerGroup(f"layer{k}", (layer,), tuple(layer.parameters()), layer)
            for k, layer in enumerate(self.layers)
        ]
