"""Multi-kernel MMD, the loss of DAN.

Long, Cao, Wang, Jordan (2015): Learning Transferable Features with Deep Adaptation Networks. ICML.
Gretton, Borgwardt, Rasch, Schoelkopf, Smola (2012): A Kernel Two-Sample Test. JMLR 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.kernels import gaussian_kernel, mmd
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Views

__all__ = ["MMD"]


class MMD(Penalty):
    """Squared maximum mean discrepancy between the domains' features with Gaussian kernels.

    ``k(x, y) = mean_m exp(-|x - y|^2 / (m s))``, where ``s`` is the mean squared distance in the
    batch. The paper weights the kernels by a quadratic programme; here all weights are equal.

    Args:
        multipliers: Multipliers ``m`` of the kernel width.
        unbiased: Whether to exclude pairs of a sample with itself.
        kwargs: As in :class:`Penalty`.
    """

    tasks = TASKS
    smallest_batch = 2
    uses_weights = True

    def __init__(self, *, multipliers: Sequence[float], unbiased: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multipliers = tuple(multipliers)
        self.unbiased = unbiased

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the discrepancy between features ``(B_s, D)`` and ``(B_t, D)``."""
        source, target = views["source"].features, views["target"].features
        kernel = gaussian_kernel(torch.cat([source, target]), self.multipliers)
        return mmd(kernel, len(source), self.unbiased, views["source"].weights)
