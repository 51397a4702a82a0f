"""Multilayer perceptron for vector data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tl_lightning.errors import ConfigError
from tl_lightning.layers import Activation
from tl_lightning.layers import activation as make_activation
from tl_lightning.types import LayerGroup, VectorSpec

__all__ = ["MLP"]


class MLP(nn.Module):
    """Linear layers with activations; without layers, the identity.

    Args:
        in_features: Length ``F`` of the vectors; None in the configuration means that of the data.
        widths: Output width of each layer. Ganin et al. ("Domain-Adversarial Training of Neural
            Networks", JMLR 17(59), 2016) use one layer for sentiment analysis.
        activation: Activation after each layer.
        dropout: Dropout probability before each layer except the first.
        lr_factor: Learning-rate factor relative to new layers.

    >>> import torch
    >>> net = MLP(in_features=5, widths=[4, 3], activation="sigmoid", dropout=0.0,
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
        if in_features is None:
            raise ConfigError(
                "backbone.in_features=null is set from the data when a model is built; to build "
                "the backbone alone, set the number of features"
            )
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
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message for each invalid setting."""
        problems = []
        if min(params["widths"], default=1) < 1:
            problems.append(
                f"{where}.widths={list(params['widths'])} must be positive integers; set "
                f"{where}.widths=[50]"
            )
        if not 0 <= params["dropout"] < 1:
            problems.append(
                f"{where}.dropout={params['dropout']} must be in [0, 1); set {where}.dropout=0.5"
            )
        return problems

    def forward(self, x: Tensor) -> Tensor:
        """Map vectors ``(B, F)`` to features ``(B, out_features)``."""
        out: Tensor = self.layers(x)
        return out

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return one group per layer."""
        return [
            LayerGroup(f"layer{k}", (layer,), tuple(layer.parameters()), layer)
            for k, layer in enumerate(self.layers)
        ]
