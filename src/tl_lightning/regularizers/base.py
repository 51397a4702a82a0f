"""What every regulariser is: a module that turns weights or features into loss terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tl_lightning.errors import ConfigError
from tl_lightning.types import Terms, Views

__all__ = ["Regularizer", "squares"]


class Regularizer(nn.Module):
    """Base of the regularisers; knows no Lightning, no optimizer, no loader.

    A method implements :meth:`forward` and takes its knobs as required keyword arguments (the
    defaults live in its yaml). Only what learns when the term is asked for counts: a frozen weight
    adds nothing. A weight of 0 adds no term at all, so the run is the run without the method. The
    knobs are numbers of at least 0.

    Args:
        backbone: From pictures to features, with its starting weights in place.
        task: The head and its loss.
        knobs: What :meth:`faults` looks at.

    Raises:
        ConfigError: If a knob is below 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, **knobs: float) -> None:
        super().__init__()
        faults = self.faults("regularizer", knobs)
        if faults:
            raise ConfigError(faults)
        # In a tuple, not as submodules: their weights are in the model's state dict already.
        self.parts = (backbone, task)

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the knobs of the node at ``where``, a sentence each."""
        return [
            f"{where}.{key}={value} is below 0; type {where}.{key}=0 for none of it"
            for key, value in knobs.items()
            if isinstance(value, int | float) and value < 0
        ]

    def forward(self, views: Views) -> Terms:
        """Return the named loss terms of one step; they are added to the task's loss."""
        raise NotImplementedError

    def kernels(self) -> Iterator[Tensor]:
        """Yield the learning weights of two or more dimensions, of the backbone and the head.

        Those are matrices, convolution kernels and embeddings; biases and the scales of
        normalisation have one dimension.
        """
        for part in self.parts:
            yield from (p for p in part.parameters() if p.requires_grad and p.ndim > 1)


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of squares of all values, in float32.

    >>> squares([torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]).item()
    14.0
    """
    return torch.stack([tensor.float().square().sum() for tensor in tensors]).sum()
