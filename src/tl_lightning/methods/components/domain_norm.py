"""Domain-specific batch normalisation layers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.errors import ConfigError
from tl_lightning.types import DomainAwareNorm

__all__ = ["DomainBatchNorm", "set_batch_domains", "split_norms"]


class DomainBatchNorm(DomainAwareNorm):
    """One batch norm layer per domain, applied to that domain's samples.

    Call :func:`set_batch_domains` before every forward pass to assign the samples to domains.

    Args:
        norm: The layer to replace; both domains start from its statistics.
        own_affine: Whether each domain learns its own scale and shift.
    """

    def __init__(self, norm: _BatchNorm, own_affine: bool) -> None:
        super().__init__()
        self.source = norm
        self.target = copy.deepcopy(norm)
        if not own_affine and norm.affine:
            self.target.weight, self.target.bias = norm.weight, norm.bias
        self.parts = [("target", 0)]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, ...)``."""
        domains = {domain for domain, _ in self.parts}
        if len(domains) == 1:
            out: Tensor = self.get_submodule(domains.pop())(x)
            return out
        chunks = torch.split(x, [size for _, size in self.parts])
        outs = [
            self.get_submodule(domain)(chunk)
            for (domain, _), chunk in zip(self.parts, chunks, strict=True)
        ]
        return torch.cat(outs)


def set_batch_domains(norms: Iterable[DomainBatchNorm], parts: Sequence[tuple[str, int]]) -> None:
    """Tell the layers which slice of the next batch belongs to which domain."""
    for norm in norms:
        norm.parts = parts


def split_norms(module: nn.Module, own_affine: bool) -> int:
    """Replace every batch norm in ``module`` in place and return how many were replaced.

    Raises:
        ConfigError: If another method has already replaced them.
    """
    found = 0
    for name, child in list(module.named_children()):
        if isinstance(child, DomainBatchNorm):
            raise ConfigError(
                "method=[adabn,dsbn]: both replace the network's batch norm; use only one of them"
            )
        if isinstance(child, _BatchNorm):
            setattr(module, name, DomainBatchNorm(child, own_affine))
            found += 1
        else:
            found += split_norms(child, own_affine)
    return found
