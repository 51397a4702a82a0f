"""DANN: domain-adversarial training by gradient reversal.

Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand, Lempitsky (2016):
Domain-Adversarial Training of Neural Networks. JMLR 17(59).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tl_lightning.methods.components.adversary import Adversary
from tl_lightning.methods.components.kinds import TASKS

__all__ = ["DANN"]


class DANN(Adversary):
    """A discriminator on the features.

    Args:
        in_features: Width ``D`` of the features.
        kwargs: As in :class:`Adversary`.
    """

    tasks = TASKS

    def __init__(self, *, in_features: int, **kwargs: Any) -> None:
        super().__init__(in_features=in_features, inputs=in_features, **kwargs)

    def seen(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the features."""
        return features
