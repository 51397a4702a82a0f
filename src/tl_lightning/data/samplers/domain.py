"""Which sample comes when: a pure function of the seed, the domain, the epoch and the rank count.

Lightning's injected ``DistributedSampler`` gives two equal-sized domains identical indices in
every step and repeats one order when a short domain is cycled; resuming starts another order.
Here nothing depends on the process's random state, so a resumed run sees exactly the samples that
the uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from tl_lightning.utils.seeding import mix, mix_last

__all__ = ["ChunkSampler", "DomainSampler", "EvalSampler", "spread"]


class DomainSampler(Sampler[tuple[int, int]]):
    """Yield ``(index, sample_seed)`` for training one domain.

    The domain is walked in a fresh permutation on every pass, also when a short domain is walked
    several times within an epoch. Global position ``g`` of the epoch goes to rank ``g % world``
    and carries the seed ``mix(seed, domain, epoch, g)``: the augmentation of a position does not
    depend on the number of ranks or workers.

    Args:
        size: Number of samples in the domain.
        batch_size: Samples a batch and rank.
        num_batches: Batches an epoch and rank.
        seed: The run's seed.
        domain: Number of the domain: domains of equal size get different orders.
        rank: This process's rank.
        world: Number of ranks.
        epoch: The epoch to start with.
        start: Batches of that first epoch already consumed (resume in the middle of an epoch).
    """

    def __init__(
        self,
        *,
        size: int,
        batch_size: int,
        num_batches: int,
        seed: int,
        domain: int,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        start: int = 0,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.domain = domain
        self.rank = rank
        self.world = world
        self.epoch = epoch
        self.first_epoch = epoch
        self.start = start

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        positions = self._positions()
        places = islice(self._passes(), positions.start, positions.stop, self.world)
        for position, index in zip(positions, places, strict=True):
            yield index, mix(self.seed, self.domain, self.epoch, position)

    def arrays(self) -> tuple[Tensor, Tensor]:
        """Return what iterating yields, all indices and all seeds at once."""
        positions = self._positions()
        places = islice(self._passes(), positions.start, positions.stop, self.world)
        seeds = mix_last((self.seed, self.domain, self.epoch), np.array(positions, dtype=np.int64))
        return torch.tensor(list(places), dtype=torch.int64), torch.from_numpy(seeds)

    def _positions(self) -> range:
        # Tied to the epoch, not to the first call: Lightning makes two iterators when it resumes.
        start = self.start if self.epoch == self.first_epoch else 0
        first = start * self.batch_size * self.world + self.rank
        return range(first, len(self) * self.world, self.world)

    def _passes(self) -> Iterator[int]:
        """Yield the samples of the epoch for all ranks, one pass after the other."""
        for number in count():
            yield from self.order(mix(self.seed, self.domain, self.epoch, -1, number))

    def order(self, seed: int) -> Iterable[int]:
        """Return the order of one pass: every sample once, a function of the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        found: list[int] = torch.randperm(self.size, generator=generator).tolist()
        return found


class ChunkSampler(DomainSampler):
    """Walks a domain that lies in chunks so that few of them are needed at a time.

    A pass walks all chunks in a fresh permutation, ``window`` chunks at a time, and shuffles the
    samples of each window. All else is :class:`DomainSampler`'s.

    Args:
        chunks: Number of samples in every chunk.
        window: Chunks that are shuffled together.
        kwargs: As in :class:`DomainSampler`, but for ``size``.
    """

    def __init__(self, *, chunks: Sequence[int], window: int, **kwargs: Any) -> None:
        super().__init__(size=sum(chunks), **kwargs)
        self.window = window
        self.counts = torch.tensor(chunks, dtype=torch.int64)
        self.starts = self.counts.cumsum(0) - self.counts

    def order(self, seed: int) -> Iterator[int]:
        """Yield the order of one pass, a window at a time: a stream may be too long for a list."""
        generator = torch.Generator().manual_seed(seed)
        chunks = torch.randperm(len(self.counts), generator=generator)
        for first in range(0, len(chunks), self.window):
            window = chunks[first : first + self.window]
            starts, counts = self.starts[window].tolist(), self.counts[window].tolist()
            inside = torch.cat(
                [torch.arange(s, s + n) for s, n in zip(starts, counts, strict=True)]
            )
            yield from inside[torch.randperm(len(inside), generator=generator)].tolist()


class EvalSampler(Sampler[tuple[int, int]]):
    """Yield ``(index, valid)`` in order, every sample on exactly one rank.

    Ranks get equally many entries (a collective in a forward would hang otherwise); the entries
    that only fill up carry ``valid = 0`` and are dropped before any metric sees them.
    """

    def __init__(self, *, size: int, rank: int = 0, world: int = 1) -> None:
        self.size = size
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return -(-self.size // self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for k in range(len(self)):
            position = k * self.world + self.rank
            yield min(position, self.size - 1), int(position < self.size)

    def arrays(self) -> tuple[Tensor, Tensor]:
        """Return what iterating yields, all indices and all marks at once."""
        positions = torch.arange(len(self)) * self.world + self.rank
        return positions.clamp(max=self.size - 1), (positions < self.size).long()


def spread(size: int, count: int) -> list[int]:
    """Return at most ``count`` places spread evenly over ``size``.

    >>> spread(10, 4), spread(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    places = np.linspace(0, size - 1, min(count, size)).round()
    return [int(place) for place in np.unique(places)]
