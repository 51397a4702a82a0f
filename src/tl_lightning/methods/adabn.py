"""AdaBN: domain-specific batch norm statistics.

Li, Wang, Shi, Liu, Hou (2018): Adaptive Batch Normalization for practical domain adaptation.
Pattern Recognition 80.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from tl_lightning.errors import ConfigError
from tl_lightning.methods.base import Method
from tl_lightning.methods.components.domain_norm import DomainBatchNorm, replace_norms
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Terms, Views

__all__ = ["AdaBN"]


class AdaBN(Method):
    """Batch norm with separate statistics for each domain; adds no loss term.

    The paper recomputes the statistics over the target images after training. Here the running
    averages over the target batches are used, which are updated during training, so that the model
    can be evaluated after every epoch.

    Args:
        in_features: Not used by this method.
        num_classes: Not used by this method.
    """

    tasks = TASKS
    required_domains = frozenset()
    adds_loss = False
    batch_statistics = True
    own_affine: ClassVar[bool] = False

    def modify_network(self, backbone: nn.Module, task: nn.Module) -> None:
        """Replace all batch norms.

        Raises:
            ConfigError: If the network has no batch norm.
        """
        found = sum(
            replace_norms(part, lambda norm: DomainBatchNorm(norm, self.own_affine))
            for part in (backbone, task)
        )
        if not found:
            raise ConfigError(
                f"method=[{self.name}] requires batch norm, but {type(backbone).__name__} and the "
                "head have none; use a backbone with batch norm, such as backbone=resnet18, or "
                "another method"
            )

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return no terms."""
        return {}
