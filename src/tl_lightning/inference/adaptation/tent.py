"""Tent: entropy minimisation over the stream.

Wang, Shelhamer, Liu, Olshausen, Darrell (2021): Tent: Fully Test-Time Adaptation by Entropy
Minimization. ICLR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tl_lightning.methods.entropy import mean_entropy

__all__ = ["Tent", "reliable_below"]

#: Momentum of SGD in the code of all three papers.
MOMENTUM = 0.9
#: A sample is reliable if its entropy is below this fraction of the largest one (EATA and SAR).
RELIABLE = 0.4


def reliable_below(classes: int) -> float:
    """Return the entropy below which the prediction of one of some classes is reliable.

    >>> round(reliable_below(10), 3)
    0.921
    """
    return RELIABLE * math.log(max(2, classes))


class Tent:
    """One step of SGD on the mean entropy of each batch.

    Args:
        parameters: Scales and shifts of the normalisation layers.
        lr: Learning rate.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self.parameters = list(parameters)
        self.lr = lr
        #: Number of steps taken by this object.
        self.taken = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was learned, apart from the parameters, which are reset with the model."""
        self.restart()

    def restart(self) -> None:
        """Forget the momentum, as the trained model was restored, see :meth:`update`."""
        self.optimizer = torch.optim.SGD(self.parameters, self.lr, momentum=MOMENTUM)

    def update(self, logits: Tensor, forward: Callable[[], Tensor]) -> bool:
        """Take a step; return whether the trained model has to be restored.

        Args:
            logits: Of the batch ``(B, K)``, with their graph.
            forward: Returns the logits of the same batch for the current parameters.
        """
        self.step(mean_entropy(logits))
        return False

    def step(self, loss: Tensor) -> None:
        """Take a step of the optimizer, unless the loss is not finite."""
        if not torch.isfinite(loss):
            return
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.taken += 1

    def state(self) -> dict[str, Any]:
        """Return the state, for :meth:`restore`."""
        return {"optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.optimizer.load_state_dict(state["optimizer"])
