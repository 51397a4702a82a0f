"""The classifier that a pretrained network was trained with, for scores that need its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tl_lightning.backbones.hub import hub_access
from tl_lightning.backbones.vision import TimmBackbone, TorchvisionBackbone, pretrained_state
from tl_lightning.backbones.weights import read_weights
from tl_lightning.errors import TransferError

__all__ = ["SourceHead", "source_head"]

Array = NDArray[Any]


@dataclass(frozen=True)
class SourceHead:
    """A linear classifier of the classes that a network was trained to predict.

    Attributes:
        weight: ``(Z, D)``.
        bias: ``(Z,)``.
    """

    weight: Array
    bias: Array

    def logits(self, features: Array) -> Array:
        """Return the logits ``(N, Z)`` of features ``(N, D)``."""
        out: Array = np.asarray(features, np.float32) @ self.weight.T + self.bias
        return out


def source_head(backbone: nn.Module, params: Mapping[str, Any]) -> SourceHead | str:
    """Return the classifier that belongs to the weights of a backbone, or why there is none.

    Args:
        backbone: A backbone with its weights, whose own classifier has been removed.
        params: Arguments that it was built with.
    """
    if not isinstance(backbone, TorchvisionBackbone | TimmBackbone):
        return "it is not a network of torchvision or timm"
    if params.get("checkpoint"):
        return "its weights come from a run"
    if not params["pretrained"] and not params["weights"]:
        return "its weights are random"
    try:
        state, name = _state(backbone, params)
    except (TransferError, OSError, RuntimeError, ValueError) as error:
        return f"its weights could not be read again ({type(error).__name__})"
    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    if weight is None or bias is None:
        return "its weights contain no classifier"
    if weight.ndim != 2 or weight.shape[1] != backbone.out_features:
        return "its classifier does not take the features"
    if not weight.any():
        return "its classifier contains only zeros"
    return SourceHead(weight.float().numpy(), bias.float().numpy())


def _state(
    backbone: TorchvisionBackbone | TimmBackbone, params: Mapping[str, Any]
) -> tuple[Mapping[str, Tensor], str]:
    """Return the weights with the classifier, and its name."""
    file = params["weights"]
    if isinstance(backbone, TorchvisionBackbone):
        from torchvision.models import get_model_weights

        entries = get_model_weights(params["name"])
        entry = getattr(entries, params["tag"])
        state = read_weights(file) if file else pretrained_state(entry, params["name"])
        linear = [k for k, value in state.items() if k.endswith(".weight") and value.ndim == 2]
        return state, linear[-1].removesuffix(".weight") if linear else ""
    import timm

    name = timm.models.get_pretrained_cfg(params["name"])
    classifier = str(name.classifier) if name and isinstance(name.classifier, str) else ""
    if file:
        return read_weights(file), classifier
    with hub_access():
        return timm.create_model(params["name"], pretrained=True).state_dict(), classifier
