"""Batch norm that keeps the domains apart."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.errors import ConfigError
from tl_lightning.types import Parted

__all__ = ["DomainBatchNorm", "attend", "split_norms"]


class DomainBatchNorm(Parted):
    """One batch norm a domain; samples go through that of their own.

    Whoever runs the network says before every forward which samples are whose, by :func:`attend`.

    Args:
        norm: The layer that it replaces; both domains start from its statistics.
        own_affine: Whether each domain learns a scale and shift of its own.
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
        whose = {domain for domain, _ in self.parts}
        if len(whose) == 1:
            out: Tensor = self.get_submodule(whose.pop())(x)
            return out
        sizes = [size for _, size in self.parts]
        pieces = torch.split(x, sizes)
        outs = [
            self.get_submodule(domain)(piece)
            for (domain, _), piece in zip(self.parts, pieces, strict=True)
        ]
        return torch.cat(outs)


def attend(norms: Iterable[DomainBatchNorm], parts: Sequence[tuple[str, int]]) -> None:
    """Tell the layers which samples of the next batch are whose."""
    for norm in norms:
        norm.parts = parts


def split_norms(module: nn.Module, own_affine: bool) -> int:
    """Replace every batch norm in ``module`` in place; return how many there were.

    Raises:
        ConfigError: If another method has done so already.
    """
    found = 0
    for name, child in list(module.named_children()):
        if isinstance(child, DomainBatchNorm):
            raise ConfigError(
                "adapter=[adabn,dsbn]: both replace the network's batch norm; type one of them"
            )
        if isinstance(child, _BatchNorm):
            setattr(module, name, DomainBatchNorm(child, own_affine))
            found += 1
        else:
            found += split_norms(child, own_affine)
    return found
