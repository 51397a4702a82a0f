"""Base class of the methods that measure both domains before training, and train nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tl_lightning.methods.base import Method
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Terms, Views

__all__ = ["Measuring"]


class Measuring(Method):
    """Changes the network by what is measured on unlabelled samples; adds no loss term.

    Args:
        strength: How far to move the target: 0 not at all, 1 all the way.
        samples: Number of training images per domain to measure.
        in_features: Not used.
        num_classes: Not used.
    """

    tasks = TASKS
    adds_loss = False
    measures_domains = True

    def __init__(
        self, *, strength: float, samples: int, in_features: int, num_classes: int
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.amount = strength
        self.samples = samples

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield one message for each invalid setting."""
        if not 0 <= params["strength"] <= 1:
            yield (
                f"{where}.strength={params['strength']} is not in [0, 1]; set {where}.strength=1"
            )
        if params["samples"] < 2:
            yield (
                f"{where}.samples={params['samples']} must be at least 2; set {where}.samples=1000"
            )

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return no terms."""
        return {}
