"""Group DRO: training for the worst of several domains or groups.

Sagawa, Koh, Hashimoto, Liang (2020): Distributionally Robust Neural Networks for Group Shifts: On
the Importance of Regularization for Worst-Case Generalization. ICLR, arXiv:1911.08731.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from tl_lightning.config.hints import within
from tl_lightning.methods.base import Method
from tl_lightning.methods.components.gather import gathered
from tl_lightning.methods.components.source_domains import domain_losses, number_of, present
from tl_lightning.types import Context, Terms, Views

__all__ = ["GroupDRO"]


class GroupDRO(Method):
    """``sum_d q_d L_d`` with ``q_d`` multiplied by ``exp(eta L_d)`` in every step.

    ``L_d`` is the mean cross-entropy of domain ``d`` in the batch and ``q`` is kept normalised.
    Algorithm 1 of the paper; its adjustment by group sizes and its strong weight decay are not
    part of it. With ``gather``, the losses of all ranks
    count together; otherwise the weights are those of the first rank.

    Args:
        in_features: As in :class:`Method`.
        num_classes: As in :class:`Method`.
        weight: Share of this loss; the task's own loss on all samples has the rest.
        eta: Step size of the weights.
        gather: Whether to compute the losses on the batches of all ranks together.
        num_sources: Number of domains of the source.
    """

    required_domains = frozenset({"source"})
    uses_source_domains = True
    smallest_batch = 2
    q: Tensor

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        weight: Annotated[float, within(0, 1)],
        eta: float,
        gather: bool,
        num_sources: int | None,
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.weight = weight
        self.eta = eta
        self.gather = gather
        number = number_of("group_dro", num_sources)
        self.register_buffer("q", torch.full((number,), 1.0 / number))

    def strength(self, ctx: Context) -> float:
        """Return the share of this loss, times ``ctx.recovery``."""
        return self.weight * ctx.recovery

    def task_weight(self, progress: float) -> float:
        """Return the share of the task's own loss."""
        return 1.0 - self.weight

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Update the weights of the domains and return their weighted loss."""
        view = gathered(views["source"]) if self.gather else views["source"]
        losses, numbers = domain_losses(view), present(view)
        with torch.no_grad():
            self.q[numbers] *= (self.eta * losses).exp()
            self.q /= self.q.sum()
        weights = self.q[numbers] / self.q[numbers].sum()
        ctx.log("worst", losses.max())
        return {self.name: self.strength(ctx) * (weights * losses).sum()}
