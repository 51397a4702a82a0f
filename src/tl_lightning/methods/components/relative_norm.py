"""Batch norm whose target statistics differ from the source's as the domains differ."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.methods.components.domain_norm import DomainBatchNorm

__all__ = ["Moments", "RelativeBatchNorm"]


class Moments:
    """Mean and variance of each channel over all batches added so far.

    >>> moments = Moments()
    >>> for part in torch.tensor([[[1.0], [2.0]], [[3.0], [6.0]]]):
    ...     moments.add(part)
    >>> moments.mean.item(), moments.var.item()
    (3.0, 3.5)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.var = torch.zeros(0)

    def add(self, x: Tensor) -> None:
        """Add a batch ``(B, C, ...)``; sums are kept in float64."""
        count = x.numel() // x.shape[1]
        mean, var = (torch.zeros(x.shape[1], device=x.device) for _ in range(2))
        # The fastest kernel for this in torch; with two values or more per channel it returns the
        # unbiased variance.
        functional.batch_norm(x, mean, var, training=True, momentum=1.0)
        # On the CPU, as not every device has float64.
        mean, var = mean.cpu().double(), var.cpu().double() * (count - 1) / count
        total = self.count + count
        if self.count:
            share = count / total
            between = (mean - self.mean).square() * share * (1 - share)
            var = (1 - share) * self.var + share * var + between
            mean = self.mean + share * (mean - self.mean)
        self.count, self.mean, self.var = total, mean, var


class RelativeBatchNorm(DomainBatchNorm):
    r"""Keeps the statistics :math:`(m, v)` for the source; for the target, moves them.

    .. math:: m + a (m_t - m_s), \qquad v (v_t / v_s)^a

    with the mean and variance of this layer's inputs in both domains, measured once.

    Args:
        norm: The layer to replace.
        strength: :math:`a`; 0 leaves the target's statistics as they are.
        samples: Number of samples per domain to measure.
    """

    source: _BatchNorm
    measured: Tensor

    def __init__(self, norm: _BatchNorm, strength: float, samples: int) -> None:
        super().__init__(norm, own_affine=False)
        self.samples = samples
        self.strength = strength
        self.register_buffer("measured", torch.tensor(False))
        self.moments: dict[str, Moments] = {}
        #: Domain that is being measured, or an empty string.
        self.measuring = ""
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, so that statistics change only when they are measured."""
        return super().train(False)

    def measure(self, domain: str) -> None:
        """Measure the inputs of this domain from now on; the source comes first."""
        self.moments[domain] = Moments()
        self.measuring = domain

    def finish(self) -> None:
        """Stop measuring and keep the statistics."""
        self.moments = {}
        self.measuring = ""
        self.measured.fill_(True)

    def reset(self) -> None:
        """Use the source's statistics for the target again."""
        self.target.load_state_dict(self.source.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, ...)``."""
        if self.measuring:
            self.moments[self.measuring].add(x)
        if self.measuring == "target":
            # With all batches so far, so that the next layers see inputs that are moved already.
            self._move(self.moments["source"], self.moments["target"])
        return super().forward(x)

    def _move(self, source: Moments, target: Moments) -> None:
        kept, moved = self.source, self.target
        assert kept.running_mean is not None
        assert kept.running_var is not None
        assert moved.running_mean is not None
        assert moved.running_var is not None
        shift = self.strength * (target.mean - source.mean)
        ratio = ((target.var + kept.eps) / (source.var + kept.eps)) ** self.strength
        moved.running_mean.copy_(kept.running_mean + shift.to(kept.running_mean))
        moved.running_var.copy_(kept.running_var * ratio.to(kept.running_var))
