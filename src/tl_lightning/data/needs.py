"""What a model asks of the data, and what it is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tl_lightning.types import DOMAINS, Spec

__all__ = ["DataInfo", "ModelNeeds", "StatesNeeds"]


@dataclass(frozen=True)
class DataInfo:
    """What a model is built from.

    Attributes:
        classes: Class names, indexed by the labels.
        class_counts: Labelled training samples of each class, or None without labels.
        width: Length ``F`` of vectors; None for other inputs.
        input_state: Preprocessing fitted on the training samples, as plain values.
        sources: Number of domains of the source.
        unlabelled: Number of training samples of the target; 0 without a target.
    """

    classes: tuple[str, ...]
    class_counts: list[int] | None
    width: int | None
    input_state: Mapping[str, Any]
    sources: int = 1
    unlabelled: int = 0


@dataclass(frozen=True)
class ModelNeeds:
    """What a model asks of the data.

    Attributes:
        input_spec: Input specification of the backbone.
        train_on: Domains to train on.
        val_labels: Domains whose validation batches contain labels.
        strong: Whether to add strongly augmented views of the target's training samples.
    """

    input_spec: Spec
    train_on: tuple[str, ...] = DOMAINS
    val_labels: tuple[str, ...] = ("source",)
    strong: bool = False


@runtime_checkable
class StatesNeeds(Protocol):
    """A LightningModule that states what it asks of the data.

    Attributes:
        learn_from: Domain whose labels are learned.
        input_state: Preprocessing of a trained model; empty for a new one.
    """

    learn_from: str
    input_state: Mapping[str, Any]

    def needs(self) -> ModelNeeds:
        """Return what the module asks of the data."""
        ...
