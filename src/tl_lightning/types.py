"""Shared type definitions: batches, views, input specs, layer groups and protocols.

Shapes: ``B`` samples in a batch, ``C`` channels, ``H`` x ``W`` pixels, ``D`` features, ``K``
classes. Images are transferred to the device as ``uint8`` ``(B, C, H, W)``, then scaled and
normalised there with the backbone's mean and standard deviation. Texts are ``int64`` token ids
``(B, L)``, padded with -1 to the longest text of the batch; vectors are ``float32`` ``(B, F)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, NamedTuple, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor, nn

__all__ = [
    "DOMAINS",
    "SPLITS",
    "Backbone",
    "Batch",
    "Context",
    "InputSpec",
    "LayerGroup",
    "Spec",
    "SplitKey",
    "Stream",
    "Terms",
    "TextSpec",
    "Tokenizer",
    "VectorSpec",
    "View",
    "Views",
]


DOMAINS = ("source", "target")
SPLITS = ("train", "val", "test")


class Stream(StrEnum):
    """A stream of training batches; equal to its name, so that ``batch["source"]`` works.

    ``target_strong`` is not loaded: it is a strongly augmented view of the target's batch. The
    number of a stream is part of its samples' seeds.
    """

    SOURCE = "source"
    TARGET = "target"
    TARGET_LABELLED = "target_labelled"
    TARGET_STRONG = "target_strong"

    @property
    def domain(self) -> str:
        """The domain that its samples belong to."""
        return "source" if self is Stream.SOURCE else "target"

    @property
    def number(self) -> int:
        """Its position among the streams."""
        return list(Stream).index(self)


class SplitKey(NamedTuple):
    """A split of a domain; written as ``source/train`` in reports.

    Attributes:
        domain: ``source`` or ``target``.
        split: ``train``, ``val``, ``test``, or ``labelled`` for few-shot samples.
    """

    domain: str
    split: str

    def __str__(self) -> str:
        return "/".join(self)


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
    by name, missing under the same condition as ``labels``. ``domain`` are the indices ``(B,)`` of
    the samples' domains, present if there are several with names.
    """

    inputs: Tensor
    index: Tensor
    labels: NotRequired[Tensor]
    strong: NotRequired[Tensor]
    aux_labels: NotRequired[dict[str, Tensor]]
    domain: NotRequired[Tensor]


@dataclass
class View:
    """Model outputs for one domain in one step, as passed to the methods.

    Attributes:
        features: ``(B, D)``, the classifier's input (after the bottleneck).
        logits: ``(B, K)``.
        labels: ``(B,)`` class indices, or None: always None for an unlabelled domain.
        index: ``(B,)`` positions in the split, or None if unknown.
        domain: ``(B,)`` index of each sample's domain, or None unless there are several.
        teacher_features: ``(B, D)`` from the teacher, detached; None without a teacher.
        teacher_logits: ``(B, K)``, likewise.
        weights: ``(B,)`` weights of the samples with mean 1, or None for 1.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor | None = None
    index: Tensor | None = None
    teacher_features: Tensor | None = None
    teacher_logits: Tensor | None = None
    weights: Tensor | None = None
    domain: Tensor | None = None

    def require(self, name: str) -> Tensor:
        """Return an optional value, such as ``labels``.

        Raises:
            ValueError: If it is None.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"this method needs View({name}=...), but it is None")
        return value


def _ignore(name: str, value: Tensor | float) -> None:
    """Drop a diagnostic scalar."""


def _no_classifier(features: Tensor) -> Tensor:
    raise TypeError(
        "this method runs the classifier itself; pass Context(classify=...), which maps features "
        "(B, D) to logits (B, K)"
    )


@dataclass(frozen=True)
class Context:
    """Information about the run that is passed to a method besides the views.

    Attributes:
        progress: Completed fraction of the run, in [0, 1].
        step: Number of completed batches in the run.
        log: ``log(name, value)`` records a diagnostic scalar.
        classify: The classifier, from features ``(B, D)`` as in the views to logits ``(B, K)``;
            only some methods use it.
        stage: Name of the current stage for alternating methods, otherwise empty.
        recovery: Factor on the strength of every method, below 1 in the steps after a roll-back.
    """

    progress: float = 1.0
    step: int = 0
    log: Callable[[str, Tensor | float], None] = _ignore
    classify: Callable[[Tensor], Tensor] = _no_classifier
    stage: str = ""
    recovery: float = 1.0


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


class Backbone(Protocol):
    """A network that maps samples to features; any ``nn.Module`` with these members.

    Without ``lr_factor`` the backbone has the learning rate of new layers. Without ``layer_groups``
    it is one group, so that phases can only train or freeze it as a whole.

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
