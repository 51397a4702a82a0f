"""The words of the house.

Shapes: ``B`` samples in a batch, ``C`` channels, ``H`` x ``W`` pixels, ``D`` features, ``K``
classes. Pictures travel to the device as ``uint8`` ``(B, C, H, W)`` and are scaled and normalised
there with the backbone's own mean and standard deviation. Texts travel as ``int64`` token numbers
``(B, L)``, -1 where a text is shorter than the batch's longest; vectors as ``float32`` ``(B, F)``.
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
    "InputSpec",
    "LayerGroup",
    "Parted",
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
    """What a backbone expects of a picture; transforms take it from here.

    Attributes:
        size: Height and width in pixels.
        mean: Mean of each channel, subtracted after scaling to [0, 1].
        std: Standard deviation of each channel.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        crop_pct: Share of the resized picture's side that the centre crop keeps in evaluation.
    """

    #: Of a batch as it comes from the data; anything else is stored features.
    dtype: ClassVar[torch.dtype] = torch.uint8
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 0.875


class Tokenizer(Protocol):
    """From texts to token ids.

    Attributes:
        digest: A hash of all that the ids depend on.
    """

    digest: str

    def encode(self, texts: Sequence[str], limit: int) -> list[tuple[list[int], bool]]:
        """Return every text's ids, at most ``limit``, and whether it was cut for that."""
        ...

    def length(self, text: str) -> int:
        """Return the number of a text's ids when nothing is cut."""
        ...


@dataclass(frozen=True)
class TextSpec:
    """What a backbone expects of a text: ids ``(B, L)``, padded by -1 on the right.

    Attributes:
        max_length: Most ids of a text, special ones included.
        tokenizer: Makes them.
    """

    dtype: ClassVar[torch.dtype] = torch.int64
    max_length: int
    tokenizer: Tokenizer


@dataclass(frozen=True)
class VectorSpec:
    """What a backbone expects of a vector.

    Attributes:
        width: Its length ``F``.
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    width: int


#: The form of a backbone's input.
Spec = InputSpec | TextSpec | VectorSpec


class Batch(TypedDict):
    """One domain's batch.

    ``labels`` are class indices ``(B,)``, or shares ``(B, K)`` after mixing; they are absent, not
    hidden, where the domain is unlabelled. ``index`` is the position in the split, or -1 for a
    sample that only fills up the last batch of a rank. ``strong`` are the same pictures, strongly
    changed, where a method asks for them. ``others`` are the labels of further tasks by name,
    absent like ``labels``.
    """

    inputs: Tensor
    index: Tensor
    labels: NotRequired[Tensor]
    strong: NotRequired[Tensor]
    others: NotRequired[dict[str, Tensor]]


@dataclass
class View:
    """What an adapter sees of one domain in one step.

    Attributes:
        features: ``(B, D)``, the features the classifier sees (after the bottleneck).
        logits: ``(B, K)``.
        labels: ``(B,)`` class indices, or None: always None for an unlabelled domain.
        index: ``(B,)`` places in the split, or None where nobody gave them.
        twin_features: ``(B, D)`` of the model's twin, without a graph, for methods that have one.
        twin_logits: ``(B, K)``, likewise.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor | None = None
    index: Tensor | None = None
    twin_features: Tensor | None = None
    twin_logits: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """What an adapter may know of the run besides its views.

    Attributes:
        progress: Fraction of this run done, in [0, 1].
        step: Number of batches done in this run.
        log: ``log(name, value)`` records a diagnostic scalar.
        classify: The classifier, from features ``(B, D)`` as in the views to logits ``(B, K)``.
        stage: Name of the stage that is due, for methods that alternate; else empty.
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
    """Some neighbouring layers of a backbone, between input and output.

    Attributes:
        name: As the network calls them, such as ``layer4``; never ``head`` or ``backbone``.
        modules: What goes into evaluation mode where the group is frozen.
        parameters: Everything in it that can learn; no parameter is in two groups.
        run: Maps the previous group's output to this one's; None where the network is no chain of
            its groups (then no group of that network has it), or where nobody asked.
    """

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...]
    run: Callable[[Tensor], Tensor] | None = None


class Parted(nn.Module):
    """A norm that treats the parts of a batch each in its own way.

    Attributes:
        parts: (domain, number of samples) in the order of the batch; set before every forward.
    """

    parts: Sequence[tuple[str, int]]


class Backbone(Protocol):
    """A network from samples to features; any ``nn.Module`` with these members.

    Attributes:
        out_features: Width ``D`` of the features.
        input_spec: What it expects of its input.
        lr_factor: How fast it learns relative to new layers (0.1 is usual for pretrained ones).
    """

    out_features: int
    input_spec: Spec
    lr_factor: float

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map normalised pictures ``(B, C, H, W)``, tokens or vectors to features ``(B, D)``."""
        ...

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return its groups from input to output; they hold every parameter and buffer once.

        Args:
            chain: Whether ``run`` is wanted too; finding out may take a forward of the network.
        """
        ...


Config = dict[str, Any]
