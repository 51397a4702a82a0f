"""Closed-form alignment of the features of a pretrained network, before the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import ConfigError
from tl_lightning.methods.components.alignment import FeatureAlignment, Kind
from tl_lightning.methods.components.measuring import Measuring
from tl_lightning.tasks.head import Head

__all__ = ["Align"]


class Align(Measuring):
    """Maps the target's features towards the source's before the head; adds no loss term.

    The map is affine, see :func:`.fit_map`. It is fitted once, to features of unlabelled training
    images of both domains, and stays fixed during training. The source's features do not change.

    Args:
        kind: Kind of the map.
        kwargs: As in :class:`.Measuring`.
    """

    def __init__(self, *, kind: Kind, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind

    @classmethod
    def check_run(cls, where: str, params: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
        """Yield that the features are those of an untrained network, or the head is another."""
        name = where.rpartition(".")[2]
        if run.model.cls.composite:  # which says itself what it needs
            return
        if not run.starts_trained:
            yield (
                f"method=[{name}] maps the features of a trained network, but the backbone has "
                "random weights; use a pretrained backbone, set init=<run folder>, or "
                "method=[coral]"
            )
        head = run.nodes["head"]
        if not Head.is_kind(head.cls):
            yield (
                f"method=[{name}] maps the inputs of {Head.__name__}, but the head is "
                f"{head.target}; set head=linear"
            )

    def modify_network(self, backbone: nn.Module, task: nn.Module) -> None:
        """Map the features before the head.

        Raises:
            ConfigError: If another method maps them already.
        """
        head: Any = task.head
        if isinstance(head.alignment, FeatureAlignment):
            raise ConfigError("method=[align] is in use twice; remove one of them")
        width = getattr(backbone, "out_features", self.in_features)
        head.alignment = FeatureAlignment(width, self.kind, self.amount, self.samples)
