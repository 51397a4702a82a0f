"""Normalisation and concatenation of input batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tl_lightning.types import InputSpec, Spec

__all__ = ["Normalise", "joined"]


class Normalise(nn.Module):
    """Scales uint8 images to [0, 1] and normalises them with the backbone's mean and std.

    Tokens and vectors are left unchanged.

    Args:
        spec: Input format of the backbone.
        layout: Memory format of the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: Spec, layout: torch.memory_format) -> None:
        super().__init__()
        self.layout = layout
        if isinstance(spec, InputSpec):
            for name, values in (("mean", spec.mean), ("std", spec.std)):
                self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return normalised images ``(B, C, H, W)``; inputs that are not uint8 are unchanged."""
        if inputs.dtype != torch.uint8:
            return inputs
        scaled = inputs.to(self.mean.dtype).div(255.0).sub(self.mean).div(self.std)
        return scaled.contiguous(memory_format=self.layout)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate batches; token ids ``(B, L)`` are padded with -1 to the longest ``L``.

    >>> joined([torch.tensor([[5]]), torch.tensor([[6, 7]])])
    tensor([[ 5, -1],
            [ 6,  7]])
    """
    if not (parts[0].dim() == 2 and parts[0].dtype == torch.int64):
        return torch.cat(list(parts))
    longest = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, longest - part.shape[1]), value=-1) for part in parts])
