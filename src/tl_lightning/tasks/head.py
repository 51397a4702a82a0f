"""Classification head with an optional bottleneck layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from tl_lightning.layers import Activation, hidden_layer

__all__ = ["Head"]


class Head(nn.Module):
    """Maps features ``(B, D)`` to bottleneck features ``(B, D')`` and logits ``(B, K)``.

    Methods use the classifier's input: the output of the bottleneck, or the backbone's features
    without a bottleneck.

    Args:
        in_features: Width ``D`` of the backbone's features.
        num_classes: ``K``.
        bottleneck: Width of a linear layer, normalisation and activation before the classifier, or
            None (256 is common in the domain adaptation literature).
        bottleneck_norm: Normalisation of the bottleneck: of each feature over the batch, of each
            sample over its features (independent of the other samples), or none.
        width: Hidden width of the classifier, or None for a linear classifier.
        activation: Activation of the bottleneck and the hidden layer.
        dropout: Dropout probability before the last layer.

    >>> import torch
    >>> head = Head(in_features=8, num_classes=3, bottleneck=4, bottleneck_norm="batch",
    ...             width=None, activation="tanh", dropout=0.0)
    >>> [tuple(out.shape) for out in head(torch.zeros(2, 8))]
    [(2, 4), (2, 3)]
    """

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        bottleneck: int | None,
        bottleneck_norm: Literal["batch", "layer", "none"],
        width: int | None,
        activation: Activation,
        dropout: float,
    ) -> None:
        super().__init__()
        #: Maps the features before anything else; replaced by the method align.
        self.alignment: nn.Module = nn.Identity()
        self.bottleneck: nn.Module = nn.Identity()
        self.out_features = in_features
        if bottleneck is not None:
            layers = hidden_layer(in_features, bottleneck, bottleneck_norm, activation)
            self.bottleneck = nn.Sequential(*layers)
            self.out_features = bottleneck
        parts: list[nn.Module] = []
        last = self.out_features
        if width is not None:
            parts += hidden_layer(last, width, "none", activation)
            last = width
        if dropout > 0:
            parts.append(nn.Dropout(dropout))
        self.classifier = nn.Sequential(*parts, nn.Linear(last, num_classes))

    @staticmethod
    def is_kind(cls: type) -> bool:
        """Return whether a class is a head whose layers come in the order of this one."""
        return issubclass(cls, Head) and cls.forward is Head.forward

    @staticmethod
    def hidden(params: Mapping[str, Any]) -> str:
        """Return the argument that makes the head more than a linear classifier; empty if none.

        >>> Head.hidden({"bottleneck": None, "width": 8}), Head.hidden({"bottleneck": None})
        ('width', '')
        """
        return next((key for key in ("bottleneck", "width") if params.get(key) is not None), "")

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classifier's input features and the logits."""
        out = self.bottleneck(self.alignment(features))
        return out, self.classifier(out)
