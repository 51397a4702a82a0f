"""AdaBN: domain-specific batch norm statistics.

Li, Wang, Shi, Liu, Hou (2018): Adaptive Batch Normalization for practical domain adaptation.
Pattern Recognition 80.

Statistics for each of several sources: Chang, You, Seo, Kwak, Han (2019): Domain-Specific Batch
Normalization for Unsupervised Domain Adaptation. CVPR (extension to multiple sources).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from torch import nn

from tl_lightning.config.hints import at_least
from tl_lightning.errors import ConfigError
from tl_lightning.methods.base import Method
from tl_lightning.methods.components.domain_norm import DomainBatchNorm, replace_norms
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.methods.components.source_domains import number_of
from tl_lightning.types import Context, Terms, Views

__all__ = ["AdaBN"]


class AdaBN(Method):
    """Batch norm with separate statistics for each domain; adds no loss term.

    The paper recomputes the statistics over the target images after training. Here the running
    averages over the target batches are used, which are updated during training, so that the model
    can be evaluated after every epoch.

    With ``per_source``, each named domain of the source has statistics of its own, see
    :class:`.DomainBatchNorm`. In evaluation, each sample of the source passes the layers of its
    domain; the target passes its own in any case.

    Args:
        per_source: Whether the named domains of the source are kept apart, or are one domain.
        num_sources: Number of domains of the source; not used without ``per_source``.
        kwargs: As in :class:`.Method`; not used by this method.

    Raises:
        ConfigError: If the number of domains is not known.
    """

    tasks = TASKS
    required_domains = frozenset({"target"})
    adds_loss = False
    batch_statistics = True
    own_affine: ClassVar[bool] = False

    def __init__(
        self, *, per_source: bool, num_sources: Annotated[int, at_least(2)] | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        name = type(self).__name__.lower()
        self.num_sources = number_of(name, num_sources) if per_source else 1

    def modify_network(self, backbone: nn.Module, task: nn.Module) -> None:
        """Replace all batch norms.

        Raises:
            ConfigError: If the network has no batch norm.
        """
        found = sum(
            replace_norms(
                part, lambda norm: DomainBatchNorm(norm, self.own_affine, self.num_sources)
            )
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
