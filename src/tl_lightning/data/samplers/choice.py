"""Choice of the sampler whose training batches are balanced, by the settings of the data."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tl_lightning.data.domain import Split
from tl_lightning.data.samplers.domain import BalancedSampler, DomainSampler
from tl_lightning.data.samplers.pseudo_balanced import PseudoBalancedSampler, classes_of
from tl_lightning.types import Stream

__all__ = ["balanced"]


def balanced(data: Any, stream: Stream, split: Split, **place: Any) -> DomainSampler | None:
    """Return the sampler of a stream whose batches are balanced; None for uniform batches.

    Args:
        data: The data module, with ``sampling`` and ``target_sampling``.
        stream: The stream of training batches.
        split: Its samples.
        place: Arguments of :class:`.DomainSampler` except ``size``.
    """
    if stream is Stream.SOURCE and data.sampling == "class_balanced":
        return BalancedSampler(labels=np.asarray(split.labels), **place)
    if stream is Stream.SOURCE and data.sampling == "domain_balanced":
        return BalancedSampler(labels=np.asarray(split.domains), **place)
    if stream is Stream.TARGET and data.target_sampling == "pseudo_balanced":
        size = len(split)
        return PseudoBalancedSampler(size=size, classes=partial(classes_of, data, size), **place)
    return None
