"""Domain-specific batch normalisation layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.errors import ConfigError
from tl_lightning.types import DomainAwareNorm

__all__ = [
    "DomainBatchNorm",
    "PerDomain",
    "assign_domains",
    "replace_norms",
    "set_batch_domains",
    "state_of_domain",
]


class PerDomain(DomainAwareNorm):
    """One layer per domain, ``source`` and ``target``, applied to that domain's samples.

    Call :func:`set_batch_domains` before every forward pass to assign the samples to domains.
    """

    source: nn.Module
    target: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.parts = [("target", 0)]

    def forward(self, x: Tensor) -> Tensor:
        """Return each domain's part of ``(B, C, ...)`` as its layer returns it."""
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


class DomainBatchNorm(PerDomain):
    """One batch norm layer per domain.

    Args:
        norm: The layer to replace; both domains start from its statistics.
        own_affine: Whether each domain learns its own scale and shift.
    """

    source: _BatchNorm
    target: _BatchNorm

    def __init__(self, norm: _BatchNorm, own_affine: bool) -> None:
        super().__init__()
        self.source = norm
        self.target = copy.deepcopy(norm)
        if not own_affine and norm.affine:
            self.target.weight, self.target.bias = norm.weight, norm.bias


def set_batch_domains(norms: Iterable[DomainAwareNorm], parts: Sequence[tuple[str, int]]) -> None:
    """Tell the layers which slice of the next batch belongs to which domain."""
    for norm in norms:
        norm.parts = parts


def replace_norms(module: nn.Module, make: Callable[[_BatchNorm], DomainBatchNorm]) -> int:
    """Replace every batch norm in ``module`` in place and return how many were replaced.

    Raises:
        ConfigError: If another method has already replaced them.
    """
    found = 0
    for name, child in list(module.named_children()):
        if isinstance(child, DomainBatchNorm):
            raise ConfigError(
                "method=[adabn,dsbn,relative_bn]: each of them replaces the network's batch norm; "
                "use only one"
            )
        if isinstance(child, _BatchNorm):
            setattr(module, name, make(child))
            found += 1
        else:
            found += replace_norms(child, make)
    return found


def state_of_domain(module: nn.Module, domain: str) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of the network that samples of a domain pass, without the other's.

    They equal those of the network before its batch norms were replaced, if these are unchanged.
    """
    parts = {f"{n}." for n, m in module.named_modules() if isinstance(m, DomainBatchNorm)}
    for name, value in module.state_dict().items():
        part = next((part for part in parts if name.startswith(part)), None)
        if part is None:
            yield name, value
        elif name.startswith(f"{part}{domain}."):
            yield part + name.removeprefix(f"{part}{domain}."), value


def assign_domains(module: nn.Module, parts: Sequence[tuple[str, int]]) -> None:
    """Call :func:`set_batch_domains` for all such layers of a module, which are looked up once.

    Args:
        module: Any module; its layers must not change any more.
        parts: As in :func:`set_batch_domains`.
    """
    found = module.__dict__.get("_domain_norms")
    if found is None:
        found = [part for part in module.modules() if isinstance(part, DomainAwareNorm)]
        module.__dict__["_domain_norms"] = found
    set_batch_domains(found, parts)
