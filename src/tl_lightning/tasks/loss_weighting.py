"""Loss weighting for multi-task learning: homoscedastic uncertainty and PCGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["TASK_WEIGHTINGS", "TaskWeighting", "Uncertainty", "projected"]

TaskWeighting = Literal["fixed", "uncertainty", "pcgrad"]
TASK_WEIGHTINGS: tuple[TaskWeighting, ...] = get_args(TaskWeighting)


class Uncertainty(nn.Module):
    r"""Weights each task's loss by a learned homoscedastic uncertainty.

    Kendall, Gal, Cipolla (2018): Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics. CVPR. With :math:`s = \log \sigma^2`, the term of a task is
    :math:`c e^{-s} L + s / 2`, where :math:`c` is 1/2 for squared errors and 1 for classification
    likelihoods (the paper's approximation, used here for binary and ordinal losses, too).

    Args:
        shares: Factor ``c`` of each task.

    >>> weighting = Uncertainty([1.0, 0.5])
    >>> weighting(1, torch.tensor(4.0), torch.tensor(True)).item()  # s starts at 0
    2.0
    """

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__()
        self.shares = tuple(shares)
        self.log_variances = nn.Parameter(torch.zeros(len(shares)))

    def forward(self, number: int, loss: Tensor, labelled: Tensor | bool) -> Tensor:
        """Return the term of a task; 0 if no sample has a label for it.

        Args:
            number: Index of the task.
            loss: Mean loss of the task, 0 without labels.
            labelled: Whether any sample has a label for the task.
        """
        s = self.log_variances[number]
        return self.shares[number] * torch.exp(-s) * loss + 0.5 * s * labelled

    def weight(self, number: int) -> Tensor:
        """Return the current weight ``c exp(-s)`` of a task."""
        return self.shares[number] * torch.exp(-self.log_variances[number].detach())


def projected(
    gradients: Sequence[Sequence[Tensor]], generator: torch.Generator | None = None
) -> list[Tensor]:
    r"""Return the sum of the tasks' gradients after removing conflicting components (PCGrad).

    Yu, Kumar, Gupta, Levine, Hausman, Finn (2020): Gradient Surgery for Multi-Task Learning.
    NeurIPS. For each task :math:`i` and every other task :math:`j` in random order: if
    :math:`g_i \cdot g_j < 0`, :math:`g_i` is replaced by
    :math:`g_i - (g_i \cdot g_j) / \lVert g_j \rVert^2 \; g_j`, with the original gradient
    :math:`g_j`. The gradients of all parameters are treated as one vector.

    Args:
        gradients: For each task, one tensor per parameter.
        generator: CPU generator for the random order.

    >>> a, b = [torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]
    >>> projected([a, b])[0].tolist()  # (0.5, 0.5) + (0, 1)
    [0.5, 1.5]
    """
    flat = [torch.cat([part.reshape(-1).float() for part in task]) for task in gradients]
    total = torch.zeros_like(flat[0])
    for i, original in enumerate(flat):
        gradient = original.clone()
        for j in torch.randperm(len(flat), generator=generator).tolist():
            if j == i:
                continue
            other = flat[j]
            inner = torch.dot(gradient, other)
            # A clamped factor instead of a branch avoids a device synchronisation.
            gradient -= inner.clamp_max(0.0) / other.dot(other).clamp_min(1e-30) * other
        total += gradient
    sizes = [part.numel() for part in gradients[0]]
    return [
        part.view_as(like).to(like.dtype)
        for part, like in zip(torch.split(total, sizes), gradients[0], strict=True)
    ]
