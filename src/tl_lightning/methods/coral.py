"""Deep CORAL: alignment of the domains' feature covariances.

Sun, Saenko (2016): Deep CORAL: Correlation Alignment for Deep Domain Adaptation. ECCV workshops.
"""

from __future__ import annotations

from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Views

__all__ = ["CORAL", "covariance"]


def covariance(x: Tensor) -> Tensor:
    """Return the unbiased covariance ``(D, D)`` of the rows of ``(N, D)``."""
    centred = x - x.mean(0, keepdim=True)
    return centred.T @ centred / (len(x) - 1)


class CORAL(Penalty):
    """``|C_s - C_t|_F^2 / (4 D^2)`` with the feature covariances ``C`` of the batch."""

    tasks = TASKS
    smallest_batch = 2

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the distance between the covariances of ``(B_s, D)`` and ``(B_t, D)``."""
        gap = covariance(views["source"].features) - covariance(views["target"].features)
        return gap.square().sum() / (4 * self.in_features**2)
