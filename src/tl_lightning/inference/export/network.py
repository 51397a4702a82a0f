"""The network of an exported model: from raw inputs to probabilities, without anything else."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.data.io.images import shorter_side
from tl_lightning.errors import ConfigError
from tl_lightning.inference.predictor import Predictor
from tl_lightning.methods.components.domain_norm import PerDomain
from tl_lightning.tasks.target_outputs import PriorCorrection
from tl_lightning.types import InputSpec, TextSpec

__all__ = ["OUTPUTS", "ExportedNetwork", "exported_network"]

#: Names of the outputs, all float32: calibrated probabilities ``(B, K)``, logits ``(B, K)`` before
#: the temperature, and features ``(B, D)``, the input of the classifier.
OUTPUTS = ("probabilities", "logits", "features")
#: Package of the models whose outputs are those of backbone and head.
_MODELS = "tl_lightning.models."


class ExportedNetwork(nn.Module):
    """Preprocessing, backbone and head of a trained model, with calibrated probabilities.

    Args:
        prepare: Maps raw inputs to the backbone's input.
        backbone: Maps it to features.
        head: Maps these to the classifier's input and the logits.
        temperature: What logits are divided by.
        shift: What is added to the logits ``(K,)``, see :class:`.PriorCorrection`, or None.
    """

    temperature: Tensor
    shift: Tensor | None

    def __init__(
        self,
        prepare: nn.Module,
        backbone: nn.Module,
        head: nn.Module,
        temperature: float,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.prepare = prepare
        self.backbone = backbone
        self.head = head
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        self.register_buffer("shift", shift)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Map a batch of raw inputs to the :data:`OUTPUTS` by name."""
        prepared = self.prepare(inputs)
        if prepared.is_floating_point():
            prepared = prepared.to(self.dtype)
        features, logits = self.head(self.backbone(prepared))
        logits = logits.float() if self.shift is None else logits.float() + self.shift.float()
        probabilities = functional.softmax(logits / self.temperature.float(), dim=1)
        return dict(zip(OUTPUTS, (probabilities, logits, features.float()), strict=True))

    @property
    def dtype(self) -> torch.dtype:
        """Type in which backbone and head compute."""
        found = (part for part in self.backbone.parameters() if part.is_floating_point())
        first: Tensor = next(found, next(self.head.parameters()))
        return first.dtype

    def in_precision(self, dtype: torch.dtype) -> ExportedNetwork:
        """Return a copy whose backbone and head compute in this type."""
        found = copy.deepcopy(self)
        found.backbone.to(dtype)
        found.head.to(dtype)
        return found


class ScaledImages(nn.Module):
    """Scales uint8 images ``(B, 3, S, S)`` to [0, 1] and normalises them, in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the normalised images."""
        return inputs.float().div(255.0).sub(self.mean).div(self.std)


class ResizedImages(nn.Module):
    """Resizes the shorter side and crops the centre as :class:`.geometry.Centre`, then scales.

    All operations on sizes are on integers without branches, so that height and width may be
    dynamic in an exported graph.
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.size, self.shorter = spec.size, shorter_side(spec)
        self.mode = spec.interpolation
        self.scaled = ScaledImages(spec)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images ``(B, 3, H, W)`` uint8 of any size to normalised ones ``(B, 3, S, S)``."""
        height, width = inputs.shape[-2:]
        least = torch.sym_min(height, width)
        # While exporting, these are symbolic integers.
        size: Any = (self.shorter * height // least, self.shorter * width // least)
        resized = functional.interpolate(
            inputs.contiguous(memory_format=torch.channels_last),
            size=size,
            mode=self.mode,
            antialias=self.mode != "nearest",
        )
        top, left = (_start(side, self.size) for side in size)
        cropped = resized.narrow(2, top, self.size).narrow(3, left, self.size)
        return self.scaled(cropped)  # type: ignore[no-any-return]


def _start(side: int, size: int) -> int:
    """Return ``round((side - size) / 2)``, halves to even as Python rounds, without a branch.

    >>> [_start(side, 4) for side in range(4, 12)] == [round(n / 2) for n in range(8)]
    True
    """
    half, odd = (side - size) // 2, (side - size) % 2
    return half + odd * (half % 2)


class ScaledVectors(nn.Module):
    """Selects and scales the columns of vectors ``(B, F)`` as in training, in float32."""

    mean: Tensor
    std: Tensor
    columns: Tensor

    def __init__(self, state: Mapping[str, Any]) -> None:
        super().__init__()
        self.kind = state.get("scale", "none")
        self.selects = state.get("columns") is not None
        if self.selects:
            self.register_buffer("columns", torch.tensor(state["columns"], dtype=torch.int64))
        if self.kind == "standard":
            std = torch.tensor(state["std"], dtype=torch.float32)
            self.register_buffer("mean", torch.tensor(state["mean"], dtype=torch.float32))
            self.register_buffer("std", torch.where(std > 0, std, 1.0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scaled vectors."""
        x = inputs.index_select(1, self.columns) if self.selects else inputs
        if self.kind == "standard":
            return (x - self.mean) / self.std
        if self.kind == "l2":
            length = x.square().sum(dim=1, keepdim=True).sqrt()
            return x / torch.where(length > 0, length, 1.0)
        return x


def exported_network(predictor: Predictor, resize: bool = False) -> ExportedNetwork:
    """Return the inference part of a model for samples of the target, as a copy on the CPU.

    Layers with one part per domain are replaced by that of the target, and LoRA matrices are added
    to the weights. Nothing else of the model is kept: no discriminator, teacher or auxiliary head.

    Args:
        predictor: The model.
        resize: Whether the network resizes and crops images of any size itself.

    Raises:
        ConfigError: If the model computes its outputs in a way of its own.
    """
    module = predictor.module
    for name in ("extract", "forward", "_single_domain"):
        if not getattr(type(module), name).__module__.startswith(_MODELS):
            raise ConfigError(
                f"{type(module).__name__} has a method {name} of its own, which an exported model "
                "would leave out; export the network itself, for example with torch.onnx.export"
            )
    spec = predictor.spec
    if isinstance(spec, InputSpec):
        prepare: nn.Module = ResizedImages(spec) if resize else ScaledImages(spec)
    elif isinstance(spec, TextSpec):
        prepare = nn.Identity()
    else:
        prepare = ScaledVectors(predictor.stored.input_state)
    parts = (module.backbone, module.task.head)
    backbone, head = (_of_target(_merged(copy.deepcopy(part).cpu())) for part in parts)
    prior = module.task.prior
    shift = prior.shift.detach().cpu().clone() if isinstance(prior, PriorCorrection) else None
    network = ExportedNetwork(prepare, backbone, head, predictor.temperature, shift)
    return network.requires_grad_(False).eval()


def _of_target(module: nn.Module) -> nn.Module:
    """Replace every layer with a part per domain by that of the target, in place."""
    if isinstance(module, PerDomain):
        return module.target
    for name, child in list(module.named_children()):
        setattr(module, name, _of_target(child))
    return module


def _merged(module: nn.Module) -> nn.Module:
    """Replace every layer with LoRA matrices by one linear layer, in place."""
    child: Any
    for name, child in list(module.named_children()):
        if hasattr(child, "lora_A") and hasattr(child, "get_base_layer"):
            child.merge()
            setattr(module, name, child.get_base_layer())
        else:
            _merged(child)
    return module
