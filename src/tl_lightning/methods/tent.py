"""TENT: test-time adaptation of batch norm by entropy.

Wang, Shelhamer, Liu, Olshausen, Darrell (2021): Tent: Fully Test-Time Adaptation by Entropy
Minimization. ICLR.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.errors import ConfigError
from tl_lightning.methods.base import Penalty
from tl_lightning.methods.entropy import mean_entropy
from tl_lightning.types import Context, Views

__all__ = ["TENT"]


class TENT(Penalty):
    """Only the scales and shifts of batch norm learn, to make the target's predictions sure.

    Made for ``model=source_free``. The paper predicts each batch as it adapts to it; here the
    target's unlabelled training split is passed once or more, and the model that is left is tested
    with the batch-norm statistics that it gathered on the way.
    """

    reads = frozenset({"target"})
    source_free = True

    def prepare(self, backbone: nn.Module, task: nn.Module) -> None:
        """Freeze everything but batch norm's scales and shifts.

        Raises:
            ConfigError: If there is none.
        """
        found = 0
        for part in (backbone, task):
            part.requires_grad_(False)
            for module in part.modules():
                if isinstance(module, _BatchNorm) and module.affine:
                    module.requires_grad_(True)
                    found += 1
        if not found:
            raise ConfigError(
                f"adapter=[tent] learns batch norm's scales and shifts, and "
                f"{type(backbone).__name__} and the head have none; type adapter=[shot]"
            )

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the mean entropy of the target's logits ``(B, K)``."""
        return mean_entropy(views["target"].logits)
