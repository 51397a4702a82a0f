"""Teacher models: a moving average or a frozen copy of backbone and task."""

from __future__ import annotations

import copy
from typing import Literal, Self

import torch
from torch import Tensor, nn

__all__ = ["Teacher"]


class Teacher(nn.Module):
    """A moving average or a frozen copy of backbone and task, always in evaluation mode.

    Args:
        backbone: Backbone to copy.
        task: Task to copy.
        kind: ``average`` for a moving average over the steps, ``frozen`` for a single copy.
        begins: Fraction of the run after which the frozen copy is taken.
        momentum: Momentum of the moving average.
    """

    def __init__(
        self,
        backbone: nn.Module,
        task: nn.Module,
        *,
        kind: Literal["average", "frozen"],
        begins: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.task = copy.deepcopy(task)
        self.kind = kind
        self.begins = begins
        self.momentum = momentum
        #: Whether the outputs may be used: always, or once the frozen copy has been taken. Not a
        #: buffer, as reading one in a step would wait for the device.
        self.taken = kind == "average"
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, so that outputs do not depend on the other samples."""
        return super().train(False)

    def get_extra_state(self) -> Tensor:
        """Return whether the copy has been taken, so that a resumed run does not take it again."""
        return torch.tensor(self.taken)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore it."""
        self.taken = bool(state)

    @torch.no_grad()
    def before_step(self, backbone: nn.Module, task: nn.Module, progress: float) -> None:
        """Take the frozen copy once ``progress`` has reached its start."""
        if self.kind == "frozen" and progress >= self.begins and not self.taken:
            self._update(backbone, task, momentum=0.0)
            self.taken = True

    @torch.no_grad()
    def after_step(self, backbone: nn.Module, task: nn.Module) -> None:
        """Update the moving average."""
        if self.kind == "average":
            self._update(backbone, task, self.momentum)

    def copy(self, backbone: nn.Module, task: nn.Module) -> None:
        """Copy a network that was changed before the first step."""
        self._update(backbone, task, momentum=0.0)

    def _update(self, backbone: nn.Module, task: nn.Module, momentum: float) -> None:
        for own, other in ((self.backbone, backbone), (self.task, task)):
            values = other.state_dict()
            for name, value in own.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(values[name].to(value.dtype), 1 - momentum)
                else:
                    value.copy_(values[name])
