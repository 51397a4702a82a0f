"""A second copy of the model that follows it and never learns."""

from __future__ import annotations

import copy
from typing import Literal, Self

import torch
from torch import Tensor, nn

__all__ = ["Twin"]


class Twin(nn.Module):
    """Backbone and task as they were, or as they are on average; always in evaluation mode.

    Args:
        backbone: To copy.
        task: To copy.
        kind: ``average`` moves a little towards the model after every step; ``frozen`` copies it
            once.
        begins: Share of the run after which the frozen copy is taken.
        momentum: Weight of the average's old value.
    """

    taken: Tensor

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
        # In the state dict: a resumed run must not take the copy anew.
        self.register_buffer("taken", torch.tensor(kind == "average"))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a teacher's answer depends on no other sample."""
        return super().train(False)

    @torch.no_grad()
    def before_step(self, backbone: nn.Module, task: nn.Module, progress: float) -> None:
        """Take the frozen copy where its time has come."""
        if self.kind == "frozen" and progress >= self.begins and not self.taken:
            self._move(backbone, task, momentum=0.0)
            self.taken.fill_(True)

    @torch.no_grad()
    def after_step(self, backbone: nn.Module, task: nn.Module) -> None:
        """Move the average."""
        if self.kind == "average":
            self._move(backbone, task, self.momentum)

    def _move(self, backbone: nn.Module, task: nn.Module, momentum: float) -> None:
        for own, other in ((self.backbone, backbone), (self.task, task)):
            values = other.state_dict()
            for name, value in own.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(values[name].to(value.dtype), 1 - momentum)
                else:
                    value.copy_(values[name])
