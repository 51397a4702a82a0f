"""V-REx: equal risks in all domains.

Krueger, Caballero, Jacobsen, Zhang, Binas, Zhang, Le Priol, Courville (2021): Out-of-Distribution
Generalization via Risk Extrapolation (REx). ICML, arXiv:2003.00688.
"""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from tl_lightning.config.hints import within
from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.source_domains import domain_losses
from tl_lightning.types import Context, Views

__all__ = ["Invariance", "VREx"]


class Invariance(Penalty):
    """A penalty on differences between the domains of the source, small at first.

    Args:
        anneal: Fraction of the run in which the weight is at most 1, as in DomainBed (Gulrajani and
            Lopez-Paz, ICLR 2021: 500 of 5,000 steps). DomainBed also restarts Adam at its end.
        kwargs: As in :class:`Penalty`.
    """

    required_domains = frozenset({"source"})
    uses_source_domains = True
    smallest_batch = 2

    def __init__(self, *, anneal: Annotated[float, within(0, 1)], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.anneal = anneal

    def strength(self, ctx: Context) -> float:
        """Return the weight at ``ctx.progress``, times ``ctx.recovery``."""
        full = super().strength(ctx)
        return min(full, ctx.recovery) if ctx.progress < self.anneal else full


class VREx(Invariance):
    """The variance of the domains' mean cross-entropies."""

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the variance of the losses of the domains in the batch (over all of them)."""
        losses = domain_losses(views["source"])
        return (losses - losses.mean()).square().mean()
