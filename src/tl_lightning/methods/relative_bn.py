"""Relative batch norm: pretrained statistics, moved for the target as the domains differ.

Li, Wang, Shi, Liu, Hou (2018): Adaptive Batch Normalization for practical domain adaptation.
Pattern Recognition 80 (AdaBN), replaces the statistics of a network by those of the target. Moving
pretrained statistics by the difference of the domains instead is this project's variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import ConfigError
from tl_lightning.methods.components.domain_norm import replace_norms
from tl_lightning.methods.components.measuring import Measuring
from tl_lightning.methods.components.relative_norm import RelativeBatchNorm

__all__ = ["RelativeBN"]


class RelativeBN(Measuring):
    """Batch norm of a pretrained network with moved statistics for the target; adds no loss term.

    The source keeps the pretrained statistics, so its features do not change. The target's are
    moved by the difference between the domains, see :class:`.RelativeBatchNorm`; they are measured
    once, on unlabelled training images of both domains, and stay fixed during training.

    Args:
        required: Whether the backbone must have batch norm; otherwise, one without is unchanged.
        kwargs: As in :class:`.Measuring`; ``strength`` moves the statistics.
    """

    def __init__(self, *, required: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.required = required

    @classmethod
    def check_run(cls, where: str, params: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
        """Yield that the backbone has no pretrained statistics."""
        if not run.starts_trained and not run.model.cls.composite:
            yield (
                f"method=[{where.rpartition('.')[2]}] moves the batch-norm statistics of a trained "
                "network, but the backbone has random weights; use a pretrained backbone, set "
                "init=<run folder>, or method=[adabn] (with model.relative_bn=false)"
            )

    def modify_network(self, backbone: nn.Module, task: nn.Module) -> None:
        """Replace the batch norms of the backbone; those of the head are new.

        Raises:
            ConfigError: If the backbone has no batch norm, and it is required.
        """
        found = replace_norms(
            backbone, lambda norm: RelativeBatchNorm(norm, self.amount, self.samples)
        )
        if not found and self.required:
            raise ConfigError(
                f"method=[{self.name}] requires batch norm, but {type(backbone).__name__} has "
                "none; use a backbone with batch norm, such as backbone=resnet18, or another method"
            )
