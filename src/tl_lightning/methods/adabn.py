"""AdaBN: the target is normalised by its own statistics.

Li, Wang, Shi, Liu, Hou (2018): Adaptive Batch Normalization for practical domain adaptation.
Pattern Recognition 80.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from tl_lightning.errors import ConfigError
from tl_lightning.methods.base import Adapter
from tl_lightning.methods.components.domain_norm import split_norms
from tl_lightning.types import Context, Terms, Views

__all__ = ["AdaBN"]


class AdaBN(Adapter):
    """Every batch norm keeps the statistics of each domain apart; nothing is added to the loss.

    The paper replaces the statistics after training by the target's means over its pictures. Here
    they are the running averages that batch norm itself keeps, over the target's own batches while
    the weights settle, so that the model of every epoch can be tested.

    Args:
        in_features: Not used by this method.
        num_classes: Not used by this method.
    """

    reads = frozenset()
    has_terms = False
    own_affine: ClassVar[bool] = False

    def prepare(self, backbone: nn.Module, task: nn.Module) -> None:
        """Replace the batch norms.

        Raises:
            ConfigError: If there is none.
        """
        found = sum(split_norms(part, self.own_affine) for part in (backbone, task))
        if not found:
            name = type(self).__name__.lower()
            raise ConfigError(
                f"adapter=[{name}] changes batch norm, and {type(backbone).__name__} and the head "
                "have none; type a backbone with batch norm, such as backbone=resnet18, or another "
                "adapter"
            )

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return no term."""
        return {}
