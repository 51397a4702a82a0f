"""Texts of like length in one batch: orders that pad little, as exact as those of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.samplers.domain import DomainSampler, EvalSampler
from tl_lightning.utils.seeding import mix

__all__ = ["BucketSampler", "SortedSampler", "padding_share"]

Lengths = Sequence[int] | NDArray[np.int64]


class BucketSampler(DomainSampler):
    """Walks a domain in a fresh permutation whose batches hold texts of like length.

    Of every pass ``window`` batches of all ranks at a time are sorted by length and cut into
    batches, and all batches of the pass come in a mixed order. All else is
    :class:`DomainSampler`'s: a pass shows every sample once and is a function of its seed.

    Args:
        lengths: Tokens of every text.
        window: Batches that are sorted together; 1 leaves the permutation as it is.
        kwargs: As in :class:`DomainSampler`, but for ``size``.
    """

    def __init__(self, *, lengths: Lengths, window: int, **kwargs: Any) -> None:
        super().__init__(size=len(lengths), **kwargs)
        self.lengths = np.asarray(lengths)
        self.window = window

    def _passes(self) -> Iterator[int]:
        """Yield the samples of the epoch for all ranks; a pass goes on where a batch was begun."""
        whole = self.batch_size * self.world
        for number in count():
            seed = mix(self.seed, self.domain, self.epoch, -1, number)
            yield from self.bucketed(seed, -number * self.size % whole)

    def order(self, seed: int) -> list[int]:
        """Return the order of one pass that begins with a new batch."""
        return self.bucketed(seed, 0)

    def bucketed(self, seed: int, begun: int) -> list[int]:
        """Return the order of one pass.

        Args:
            seed: Decides it.
            begun: Samples that the batch of the pass before still lacks; they come first.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.size, generator=generator).numpy()
        if self.window == 1:
            return [int(index) for index in order]
        whole = self.batch_size * self.world
        # What fills no batch comes last, where the next pass goes on or the epoch ends: it is taken
        # out before anything is sorted, or the longest texts would be what an epoch leaves out.
        begun = min(begun, self.size)
        end = begun + (self.size - begun) // whole * whole
        first, rest, last = order[:begun], order[begun:end], order[end:]
        batches = []
        for start in range(0, len(rest), self.window * whole):
            some = rest[start : start + self.window * whole]
            some = some[np.argsort(self.lengths[some], kind="stable")]
            batches += [some[k : k + whole] for k in range(0, len(some), whole)]
        mixed = [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]
        parts = [first, *mixed, last]
        return [int(index) for index in np.concatenate(parts)]


class SortedSampler(EvalSampler):
    """Yield ``(index, valid)`` from the longest text to the shortest, each on exactly one rank.

    Args:
        lengths: Tokens of every text.
        rank: This process's rank.
        world: Number of ranks.
    """

    def __init__(self, *, lengths: Lengths, rank: int = 0, world: int = 1) -> None:
        super().__init__(size=len(lengths), rank=rank, world=world)
        self.places = torch.from_numpy(np.argsort(-np.asarray(lengths), kind="stable"))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        index, valid = self.arrays()
        yield from zip(index.tolist(), valid.tolist(), strict=True)

    def arrays(self) -> tuple[Tensor, Tensor]:
        """Return what iterating yields, all indices and all marks at once."""
        positions, valid = super().arrays()
        return self.places[positions], valid


def padding_share(lengths: Lengths, order: Sequence[int], batch_size: int) -> float:
    """Return which share of the batches' places is padding.

    >>> padding_share([2, 4], [0, 1], 2), padding_share([2, 4], [0, 1], 1)
    (0.25, 0.0)
    """
    shown = np.asarray(lengths)[np.asarray(order, dtype=np.int64)]
    batches = [shown[k : k + batch_size] for k in range(0, len(shown), batch_size)]
    places = sum(int(batch.max()) * len(batch) for batch in batches)
    return float(1 - shown.sum() / places)
