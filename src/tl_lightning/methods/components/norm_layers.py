"""Normalisation layers that a model adapts to a target without labels."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.methods.components.domain_norm import PerDomain

__all__ = ["scales_and_shifts", "target_norms"]

#: Layers whose scale and shift can be adapted (Wang et al. 2021, section 3.2; Niu et al. 2023).
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def target_norms(*parts: nn.Module) -> list[nn.Module]:
    """Return the normalisation layers that target samples pass, in the order of the modules.

    Args:
        parts: Such as backbone and task; of layers with one part per domain, only the target's
            counts.
    """
    found: list[nn.Module] = []
    for part in parts:
        source = {
            id(one)
            for norm in part.modules()
            if isinstance(norm, PerDomain)
            for one in norm.source.modules()
        }
        found += [one for one in part.modules() if isinstance(one, NORMS) and id(one) not in source]
    return found


def scales_and_shifts(norms: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return the scales and shifts of normalisation layers, each of them once."""
    found = {id(one): one for norm in norms for one in norm.parameters(recurse=False)}
    return list(found.values())
