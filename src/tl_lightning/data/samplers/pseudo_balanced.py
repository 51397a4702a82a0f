"""Sampler of unlabelled samples whose batches contain all predicted classes equally often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.samplers.domain import BalancedSampler
from tl_lightning.errors import ConfigError

__all__ = ["PseudoBalancedSampler", "classes_of"]


class PseudoBalancedSampler(BalancedSampler):
    """:class:`BalancedSampler` by the classes that a model predicts for every epoch.

    Garg, Erickson, Sharpnack, Smola, Balakrishnan, Lipton (2023): RLSbench: Domain Adaptation Under
    Relaxed Label Shift. ICML. Their correction of the classifier by the estimated class frequencies
    of the target is not part of it. Classes that are not predicted are left out.

    Args:
        size: Number of samples ``N``.
        classes: Returns the predicted classes ``(N,)`` at the start of the given epoch; it is asked
            when the first sample of an epoch is drawn.
        kwargs: As in :class:`DomainSampler`, except ``size``.
    """

    def __init__(
        self, *, size: int, classes: Callable[[int], NDArray[np.int64]], **kwargs: Any
    ) -> None:
        super().__init__(labels=np.zeros(size, dtype=np.int64), **kwargs)
        self.classes = classes

    def _passes(self) -> Iterator[int]:
        """Yield the samples of the epoch for all ranks, batch by batch."""
        self.members = self.members_of(self.classes(self.key))
        yield from super()._passes()


def classes_of(data: Any, size: int, epoch: int) -> NDArray[np.int64]:
    """Return the classes ``(N,)`` that the model of a data module predicts for the target.

    Args:
        data: The data module, whose ``predicted`` a model has set.
        size: ``N``.
        epoch: The epoch.

    Raises:
        ConfigError: If another module is trained.
    """
    if data.predicted is not None:
        found: NDArray[np.int64] = data.predicted(epoch)
        return found
    if data.trainer is not None:
        name = type(data.trainer.lightning_module).__name__
        raise ConfigError(
            "data.target_sampling=pseudo_balanced needs a model that predicts the target's classes "
            f"for every epoch, but {name} is not a DomainAdaptation; set "
            "data.target_sampling=uniform"
        )
    return np.zeros(size, dtype=np.int64)  # to look at the batches without a model
