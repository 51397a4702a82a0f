"""M3SDA: matches the moments of several sources and the target.

Peng, Bai, Xia, Huang, Saenko, Wang (2019): Moment Matching for Multi-Source Domain Adaptation.
ICCV, arXiv:1812.01754.
"""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Any

import torch
from torch import Tensor

from tl_lightning.config.hints import at_least
from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.methods.components.source_domains import members_of
from tl_lightning.types import Context, Views

__all__ = ["M3SDA"]


class M3SDA(Penalty):
    """Distances between the first raw moments of the features, of all pairs of domains.

    For each order ``k``, the mean over the sources of ``|E[x_i^k] - E[x_t^k]|_2`` plus the mean
    over pairs of sources of ``|E[x_i^k] - E[x_j^k]|_2``, equation 1 of the paper. There is one
    classifier for all sources; the paper's pairs of classifiers for each source and their
    discrepancy (M3SDA-beta) are not part of it.

    Args:
        moments: Highest order ``k``; the paper uses 2.
        kwargs: As in :class:`Penalty`.
    """

    tasks = TASKS
    uses_source_domains = True
    smallest_batch = 2

    def __init__(self, *, moments: Annotated[int, at_least(1)], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.moments = moments

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the sum over the orders, for features ``(B_s, D)`` and ``(B_t, D)``."""
        source, target = views["source"], views["target"]
        total = target.features.new_zeros(())
        for order in range(1, self.moments + 1):
            goal = target.features.pow(order).mean(0)
            means = [part.mean(0) for part in members_of(source, source.features.pow(order))]
            total = total + _mean([_distance(mean, goal) for mean in means])
            pairs = combinations(means, 2)
            total = total + _mean([_distance(one, other) for one, other in pairs])
        return total


def _distance(one: Tensor, other: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(one - other)
    return distance


def _mean(values: list[Tensor]) -> Tensor:
    # A batch may contain samples of one source only.
    return torch.stack(values).mean() if values else torch.zeros(())
