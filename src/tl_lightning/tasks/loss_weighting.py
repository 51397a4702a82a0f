"""How the losses of several tasks are brought together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["BALANCES", "Balance", "Uncertainty", "projected"]

Balance = Literal["fixed", "uncertainty", "pcgrad"]
BALANCES: tuple[Balance, ...] = get_args(Balance)


class Uncertainty(nn.Module):
    r"""Learns how noisy each task is, and weighs its loss by that.

    Kendall, Gal, Cipolla (2018): Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics. CVPR. With :math:`s = \log \sigma^2` a task's term is
    :math:`c e^{-s} L + s / 2`: :math:`c = 1/2` for squared errors, 1 for likelihoods of classes
    (the paper's approximation; also taken here for binary and ordinal ones).

    Args:
        shares: ``c`` of each task.

    >>> balance = Uncertainty([1.0, 0.5])
    >>> balance(1, torch.tensor(4.0), torch.tensor(True)).item()  # s starts at 0
    2.0
    """

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__()
        self.shares = tuple(shares)
        self.log_variances = nn.Parameter(torch.zeros(len(shares)))

    def forward(self, number: int, loss: Tensor, labelled: Tensor | bool) -> Tensor:
        """Return a task's term; 0 where no sample has a label of it.

        Args:
            number: Of the task, in the order of the shares.
            loss: Its mean loss, 0 without any label.
            labelled: Whether some sample has one.
        """
        s = self.log_variances[number]
        return self.shares[number] * torch.exp(-s) * loss + 0.5 * s * labelled

    def weight(self, number: int) -> Tensor:
        """Return ``c exp(-s)`` of a task."""
        return self.shares[number] * torch.exp(-self.log_variances[number].detach())


def projected(
    gradients: Sequence[Sequence[Tensor]], generator: torch.Generator | None = None
) -> list[Tensor]:
    r"""Return the sum of the tasks' gradients after each gave up what works against another.

    PCGrad: Yu, Kumar, Gupta, Levine, Hausman, Finn (2020): Gradient Surgery for Multi-Task
    Learning. NeurIPS. For each task :math:`i` and every other :math:`j` in random order: where
    :math:`g_i \cdot g_j < 0`, :math:`g_i` becomes
    :math:`g_i - (g_i \cdot g_j) / \lVert g_j \rVert^2 \; g_j`, with the other's own gradient
    :math:`g_j`. All parameters together are one vector.

    Args:
        gradients: For each task one tensor a parameter.
        generator: Of the order; on the CPU.

    >>> up, back = [torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]
    >>> projected([up, back])[0].tolist()  # (0.5, 0.5) + (0, 1)
    [0.5, 1.5]
    """
    flat = [torch.cat([part.reshape(-1).float() for part in one]) for one in gradients]
    total = torch.zeros_like(flat[0])
    for number, own in enumerate(flat):
        now = own.clone()
        for other in torch.randperm(len(flat), generator=generator).tolist():
            if other == number:
                continue
            against = flat[other]
            inner = torch.dot(now, against)
            # As a factor, not a branch: the device need not be waited for.
            now -= inner.clamp_max(0.0) / against.dot(against).clamp_min(1e-30) * against
        total += now
    sizes = [part.numel() for part in gradients[0]]
    return [
        part.view_as(like).to(like.dtype)
        for part, like in zip(torch.split(total, sizes), gradients[0], strict=True)
    ]
