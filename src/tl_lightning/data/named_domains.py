"""Domains that keep their names when several of them are the source or the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tl_lightning.data.domain import Domain, Split

__all__ = ["OTHERS", "domain_counts", "indices_of", "sampling_problems", "with_domains"]

#: Value of ``source.domain``: all domains of the dataset except those of the target.
OTHERS = "others"


def indices_of(splits: Mapping[Any, Split]) -> dict[Any, Tensor]:
    """Return the domain index ``(N,)`` of every sample, of the splits with several domains."""
    return {
        key: torch.from_numpy(split.domains.copy())
        for key, split in splits.items()
        if split.domains is not None
    }


def with_domains(batch: Any, indices: Mapping[Any, Tensor]) -> Any:
    """Add the domain indices ``(B,)`` of the samples to a training batch.

    Args:
        batch: By stream; batches of evaluation are returned as they are.
        indices: The domain index of every sample of a stream, see :func:`indices_of`.
    """
    if not indices or not isinstance(batch, Mapping) or "inputs" in batch:
        return batch
    for stream, table in indices.items():
        if stream in batch:
            batch[stream]["domain"] = table[batch[stream]["index"]]
    return batch


def domain_counts(domain: Domain) -> dict[str, dict[str, int]]:
    """Return the number of samples by name of the domain and split; empty for a single domain."""
    found: dict[str, dict[str, int]] = {name: {} for name in domain.domains}
    for split, part in domain.splits().items():
        if part.domains is not None:
            for number, name in enumerate(domain.domains):
                found[name][split] = int((part.domains == number).sum())
    return found


def sampling_problems(sampling: str, source: Domain) -> Iterator[str]:
    """Yield why training batches cannot contain all domains of the source equally often."""
    if sampling != "domain_balanced":
        return
    if not source.domains:
        yield (
            "data.sampling=domain_balanced draws from the domains of the source equally often, "
            f"but the source ({source.name}) is one domain; set data.source.domain=[<one>,"
            "<another>], or data.sampling=uniform"
        )
    for name, counts in domain_counts(source).items():
        if counts.get("train") == 0:
            yield (
                f"data.sampling=domain_balanced, but the domain {name} of the source has no "
                f"training samples; remove it from data.source.domain, or set "
                "data.sampling=uniform"
            )
