"""TENT: test-time adaptation of normalisation layers by entropy minimisation.

Wang, Shelhamer, Liu, Olshausen, Darrell (2021): Tent: Fully Test-Time Adaptation by Entropy
Minimization. ICLR.
"""

from __future__ import annotations

from torch import Tensor, nn

from tl_lightning.errors import ConfigError
from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.norm_layers import scales_and_shifts, target_norms
from tl_lightning.methods.entropy import mean_entropy
from tl_lightning.types import Context, Views

__all__ = ["TENT"]


class TENT(Penalty):
    """Trains only the scales and shifts of normalisation layers to minimise the target's entropy.

    Intended for ``model=source_free``. The paper predicts each batch while adapting to it, as
    :mod:`tl_lightning.inference.adaptation` does; here the model is trained on the unlabelled
    target training split and then tested with the running batch norm statistics of that training.
    """

    required_domains = frozenset({"target"})
    source_free = True
    batch_statistics = True

    def modify_network(self, backbone: nn.Module, task: nn.Module) -> None:
        """Freeze everything except the scales and shifts of normalisation layers.

        Raises:
            ConfigError: If the network has no normalisation layer with scale and shift.
        """
        for part in (backbone, task):
            part.requires_grad_(False)
        trained = scales_and_shifts(target_norms(backbone, task))
        for parameter in trained:
            parameter.requires_grad_(True)
        if not trained:
            raise ConfigError(
                "method=[tent] trains the scales and shifts of normalisation layers, but "
                f"{type(backbone).__name__} and the head have none; set method=[shot]"
            )

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the mean entropy of the target logits ``(B, K)``."""
        return mean_entropy(views["target"].logits)
