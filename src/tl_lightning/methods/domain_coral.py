"""CORAL between the domains of the source, for targets that are not seen in training.

Sun, Saenko (2016): Deep CORAL: Correlation Alignment for Deep Domain Adaptation. ECCV workshops; as
a method of domain generalization in Gulrajani, Lopez-Paz (2021): In Search of Lost Domain
Generalization. ICLR.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.methods.components.source_domains import members_of
from tl_lightning.methods.coral import covariance
from tl_lightning.types import Context, Views

__all__ = ["DomainCORAL"]


class DomainCORAL(Penalty):
    """Squared differences of means and covariances, each averaged, over all pairs of domains.

    Domains with a single sample in the batch are left out.
    """

    tasks = TASKS
    required_domains = frozenset({"source"})
    uses_source_domains = True
    smallest_batch = 4

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the mean over the pairs; 0 if fewer than two domains have two samples."""
        features = views["source"].features
        parts = [part for part in members_of(views["source"], features) if len(part) > 1]
        moments = [(part.mean(0), covariance(part)) for part in parts]
        gaps = [
            (one[0] - other[0]).square().mean() + (one[1] - other[1]).square().mean()
            for one, other in combinations(moments, 2)
        ]
        return torch.stack(gaps).mean() if gaps else features.sum() * 0.0
