"""Shared type definitions: batches, views, input specs, layer groups and protocols.

Shapes: ``B`` samples in a batch, ``C`` channels, ``H`` x ``W`` pixels, ``D`` features, ``K``
classes. Images are transferred to the device as ``uint8`` ``(B, C, H, W)``, then scaled and
normalised there with the backbone's mean and standard deviation. Texts are ``int64`` token ids
``(B, L)``, padded with -1 to the longest text of the batch; vectors are ``float32`` ``(B, F)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor, nn

__all__ = [
    "Backbone",
    "Batch",
    "Config",
    "Context",
    "DomainAwareNorm",
    "InputSpec",
    "LayerGroup",
    "Spec",
    "Terms",
    "TextSpec",
    "Tokenizer",
    "VectorSpec",
    "View",
    "Views",
]


@dataclass(frozen=True)
class InputSpec:
    """Image format expected by a backbone; also determines the transforms.

    Attributes:
        size: Height and width in pixels.
        mean: Mean of each channel, subtracted after scaling to [0, 1].
        std: Standard deviation of each channel.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        crop_pct: Fraction of the resized image's side kept by the centre crop in evaluation.
    """

    #: Type of a raw input batch; any other type means cached features.
    dtype: ClassVar[torch.dtype] = torch.uint8
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 0.875


class Tokenizer(Protocol):
    """Maps texts to token ids.

    Attributes:
        digest: Hash of everything the ids depend on.
    """

    digest: str

    def encode(self, texts: Sequence[str], limit: int) -> list[tuple[list[int], bool]]:
        """Return for each text its ids, at most ``limit``, and whether it was truncated."""
        ...

    def length(self, text: str) -> int:
        """Return the number of ids of a text without truncation."""
        ...


@dataclass(frozen=True)
class TextSpec:
    """Text format expected by a backbone: ids ``(B, L)``, padded with -1 on the right.

    Attributes:
        max_length: Maximum number of ids per text, including special tokens.
        tokenizer: The tokenizer that produces the ids.
    """

    dtype: ClassVar[torch.dtype] = torch.int64
    max_length: int
    tokenizer: Tokenizer


@dataclass(frozen=True)
class VectorSpec:
    """Vector format expected by a backbone.

    Attributes:
        width: Length ``F`` of the vector.
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    width: int


#: Input format of a backbone.
Spec = InputSpec | TextSpec | VectorSpec


class Batch(TypedDict):
    """One domain's batch.

    ``labels`` are class indices ``(B,)``, or soft labels ``(B, K)`` after mixup; the key is missing
    if the domain is unlabelled. ``index`` is the position in the split, or -1 for a sample that
    only pads the last batch of a rank. ``strong`` are strongly augmented versions of the same
    images, present if a method requests them. ``aux_labels`` are the labels of the auxiliary tasks
    by name, missing under the same condition as ``labels``.
    """

    inputs: Tensor
    index: Tensor
    labels: NotRequired[Tensor]
    strong: NotRequired[Tensor]
    aux_labels: NotRequired[dict[str, Tensor]]


@dataclass
class View:
    """Model outputs for one domain in one step, as passed to the methods.

    Attributes:
        features: ``(B, D)``, the classifier's input (after the bottleneck).
        logits: ``(B, K)``.
        labels: ``(B,)`` class indices, or None: always None for an unlabelled domain.
        index: ``(B,)`` positions in the split, or None if unknown.
        teacher_features: ``(B, D)`` from the teacher, detached; None without a teacher.
        teacher_logits: ``(B, K)``, likewise.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor | None = None
    index: Tensor | None = None
    teacher_features: Tensor | None = None
    teacher_logits: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """Information about the run that is passed to a method besides the views.

    Attributes:
        progress: Completed fraction of the run, in [0, 1].
        step: Number of completed batches in the run.
        log: ``log(name, value)`` records a diagnostic scalar.
        classify: The classifier, from features ``(B, D)`` as in the views to logits ``(B, K)``.
        stage: Name of the current stage for alternating methods, otherwise empty.
    """

    progress: float
    step: int
    log: Callable[[str, Tensor | float], None]
    classify: Callable[[Tensor], Tensor]
    stage: str = ""


Views = Mapping[str, View]
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class LayerGroup:
    """A group of consecutive layers of a backbone.

    Attributes:
        name: Name from the network, such as ``layer4``; never ``head`` or ``backbone``.
        modules: Modules to switch to evaluation mode while the group is frozen.
        parameters: All parameters of the group; no parameter is in two groups.
        run: Maps the previous group's output to this group's output; None for all groups if the
            network is not a chain of its groups, or if ``chain`` was not requested.
    """

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...]
    run: Callable[[Tensor], Tensor] | None = None


class DomainAwareNorm(nn.Module):
    """A normalisation layer that handles each domain's part of a batch separately.

    Attributes:
        parts: (domain, number of samples) in batch order; must be set before every forward pass.
    """

    parts: Sequence[tuple[str, int]]


class Backbone(Protocol):
    """A network that maps samples to features; any ``nn.Module`` with these members.

    Attributes:
        out_features: Width ``D`` of the features.
        input_spec: Expected input format.
        lr_factor: Learning-rate factor relative to new layers (commonly 0.1 if pretrained).
    """

    out_features: int
    input_spec: Spec
    lr_factor: float

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map normalised images ``(B, C, H, W)``, tokens or vectors to features ``(B, D)``."""
        ...

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return the layer groups from input to output; none of them share parameters or buffers.

        Args:
            chain: Whether to set ``run``; this may require a forward pass of the network.
        """
        ...


Config = dict[str, Any]
