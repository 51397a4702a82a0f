"""Domain-specific batch normalisation layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.errors import ConfigError, DataError
from tl_lightning.layers import DomainAwareNorm, Part

__all__ = [
    "DomainBatchNorm",
    "PerDomain",
    "assign_domains",
    "replace_norms",
    "rows_of",
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
        self.parts = [Part("target", 0)]

    def forward(self, x: Tensor) -> Tensor:
        """Return each domain's part of ``(B, C, ...)`` as its layer returns it."""
        if len({part.domain for part in self.parts}) == 1:
            return self.of_part(self.parts[0], x)
        chunks = torch.split(x, [part.size for part in self.parts])
        outs = [self.of_part(part, chunk) for part, chunk in zip(self.parts, chunks, strict=True)]
        return torch.cat(outs)

    def of_part(self, part: Part, x: Tensor) -> Tensor:
        """Return the output for samples ``(n, C, ...)`` of one domain."""
        out: Tensor = self.get_submodule(part.domain)(x)
        return out


class DomainBatchNorm(PerDomain):
    """One batch norm layer for the source and one for the target, or several for the source.

    With several, ``source`` holds one layer for each named domain of the source. In training, each
    layer normalises with the statistics of its own samples in the batch, and updates its running
    statistics with them. A domain without samples in a batch keeps its statistics. Nor do they
    change if its samples are too few for statistics, with one value per channel: they are then
    normalised with the running statistics.

    Args:
        norm: The layer to replace; all domains start from its statistics.
        own_affine: Whether each domain learns its own scale and shift.
        num_sources: Number of layers for the source.
    """

    source: _BatchNorm | nn.ModuleList
    target: _BatchNorm

    def __init__(self, norm: _BatchNorm, own_affine: bool, num_sources: int = 1) -> None:
        super().__init__()
        self.by_source = num_sources > 1
        others = [_copied(norm, own_affine) for _ in range(num_sources - 1)]
        self.source = nn.ModuleList([norm, *others]) if self.by_source else norm
        self.target = _copied(norm, own_affine)

    def of_part(self, part: Part, x: Tensor) -> Tensor:
        """Return the normalised samples ``(n, C, ...)`` of the source or of the target.

        Raises:
            DataError: If the layer needs the source domain of each sample and does not get it.
        """
        if part.domain == "target" or not isinstance(self.source, nn.ModuleList):
            return super().of_part(part, x)
        rows = _checked(part.rows, len(self.source), len(x))
        if not rows:
            return x
        if len(rows) == 1:
            return _normalised(self.source[next(iter(rows))], x)
        outs = [_normalised(self.source[number], x[own]) for number, own in rows.items()]
        return torch.cat(outs)[torch.cat([*rows.values()]).argsort()]


def _copied(norm: _BatchNorm, own_affine: bool) -> _BatchNorm:
    """Return a layer with its own statistics, and the same or its own scale and shift."""
    found = copy.deepcopy(norm)
    if not own_affine and norm.affine:
        found.weight, found.bias = norm.weight, norm.bias
    return found


def _checked(rows: Mapping[int, Tensor] | None, known: int, size: int) -> Mapping[int, Tensor]:
    """Return the rows of the source domains.

    Raises:
        DataError: If they are missing, those of other domains, or those of another batch.
    """
    what = f"per_source=true of method=[adabn] or [dsbn]: batch norm has {known} source domains"
    if rows is None:
        raise DataError(
            f"{what}, but a batch of the source does not say which of them each sample is from; "
            'pass it as {"inputs": ..., "domain": <indices (B,)>}, or train with per_source=false'
        )
    if not all(0 <= number < known for number in rows):
        raise DataError(
            f"{what}, but a batch of the source has the domain indices {sorted(rows)}; pass "
            f"indices from 0 to {known - 1}, in the order of data.source.domain in training"
        )
    if (given := sum(map(len, rows.values()))) != size:
        raise DataError(
            f"{what}, whose indices were given for {given} samples, but a batch norm got {size} "
            "rows; pass an index for each sample, and use a backbone whose batch norms get one row "
            "per sample, or set per_source=false"
        )
    return rows


def _normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """Return the normalised ``(n, C, ...)``; one value per channel with the running statistics."""
    out: Tensor
    if not norm.training or x.numel() > x.shape[1]:
        out = norm(x)
        return out
    norm.training = False  # of this layer alone: it may contain an activation
    try:
        out = norm(x)
    finally:
        norm.training = True
    return out


def rows_of(domain: Tensor) -> dict[int, Tensor]:
    """Return the rows of a batch by index of the domain that they are from.

    Args:
        domain: Index of each sample's domain, ``(B,)``.

    >>> {number: rows.tolist() for number, rows in rows_of(torch.tensor([2, 0, 2])).items()}
    {0: [1], 2: [0, 2]}
    """
    numbers, counts = torch.unique(domain, return_counts=True)
    rows = torch.split(domain.argsort(stable=True), counts.tolist())
    return dict(zip(numbers.tolist(), rows, strict=True))


def set_batch_domains(
    norms: Iterable[DomainAwareNorm], parts: Sequence[Part | tuple[str, int]]
) -> None:
    """Tell the layers which slice of the next batch belongs to which domain."""
    slices = [Part(*part) for part in parts]
    for norm in norms:
        norm.parts = slices


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
    With one layer for each named domain of the source, the tensors of all of them are yielded, one
    after the other under the same name.
    """
    norms = {n: m for n, m in module.named_modules() if isinstance(m, DomainBatchNorm)}
    for name, value in module.state_dict().items():
        owner = next((one for one in norms if name.startswith(f"{one}.")), None)
        if owner is None:
            yield name, value
        elif name.startswith(f"{owner}.{domain}."):
            leaf = name.removeprefix(f"{owner}.{domain}.")
            several = domain == "source" and norms[owner].by_source
            yield f"{owner}.{leaf.partition('.')[2] if several else leaf}", value


def assign_domains(
    module: nn.Module, parts: Sequence[tuple[str, int]], domains: Sequence[Tensor | None]
) -> None:
    """Call :func:`set_batch_domains` for all such layers of a module, which are looked up once.

    Args:
        module: Any module; its layers must not change any more.
        parts: The domain and the size of each slice, in batch order.
        domains: For each slice of the source, the index of each sample's named domain ``(n,)``, or
            None if it is not known; others are ignored.
    """
    found = module.__dict__.get("_domain_norms")
    if found is None:
        found = [part for part in module.modules() if isinstance(part, DomainAwareNorm)]
        module.__dict__["_domain_norms"] = found
    # Only if a layer needs them, as reading the indices waits for the device.
    needed = any(norm.by_source for norm in found)
    rows = [
        rows_of(own) if needed and domain == "source" and own is not None else None
        for (domain, _), own in zip(parts, domains, strict=True)
    ]
    set_batch_domains(found, [Part(*part, own) for part, own in zip(parts, rows, strict=True)])
