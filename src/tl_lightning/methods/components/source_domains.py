"""Losses and statistics by domain of a source that consists of several."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.errors import ConfigError
from tl_lightning.types import View

__all__ = ["domain_losses", "members_of", "number_of", "present"]


def present(view: View) -> Tensor:
    """Return the indices of the domains that have samples in the batch, in ascending order."""
    numbers: Tensor = torch.unique(view.require("domain"))
    return numbers


def members_of(view: View, values: Tensor) -> list[Tensor]:
    """Return the rows of ``values`` ``(B, ...)`` of every domain of :func:`present`."""
    domain = view.require("domain")
    return [values[domain == number] for number in present(view)]


def number_of(name: str, num_sources: int | None) -> int:
    """Return the number of source domains.

    Raises:
        ConfigError: If it is not known.
    """
    if num_sources is None:
        raise ConfigError(
            f"method.{name}.num_sources=null is taken from the data of a run; without them, set "
            f"method.{name}.num_sources=<number of source domains>"
        )
    return num_sources


def domain_losses(view: View) -> Tensor:
    """Return the mean cross-entropy of every domain of :func:`present`, a vector."""
    each = functional.cross_entropy(view.logits.float(), view.require("labels"), reduction="none")
    return torch.stack([losses.mean() for losses in members_of(view, each)])
