"""Samplers whose order is a pure function of seed, domain, epoch and number of ranks.

Lightning's injected ``DistributedSampler`` yields identical indices for two domains of equal size,
repeats the same order when a short domain is cycled, and starts a new order on resume. The samplers
here do not use global random state, so a resumed run sees exactly the samples that the
uninterrupted run would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from tl_lightning.utils.seeding import mix, mix_last

__all__ = [
    "BalancedSampler",
    "ChunkSampler",
    "DomainSampler",
    "EvalSampler",
    "shuffled",
]


class DomainSampler(Sampler[tuple[int, int]]):
    """Yield ``(index, sample_seed)`` for training on one domain.

    Every pass over the domain uses a new permutation, including repeated passes over a short domain
    within one epoch. Global position ``g`` of the epoch goes to rank ``g % world`` with the seed
    ``mix(seed, domain, epoch, g)``, so augmentation does not depend on the number of ranks or
    workers.

    Args:
        size: Number of samples in the domain.
        batch_size: Samples per batch and rank.
        num_batches: Batches per epoch and rank.
        seed: Seed of the run.
        domain: Number of the domain, so that domains of equal size get different orders.
        rank: Rank of this process.
        world: Number of ranks.
        epoch: First epoch.
        start: Batches of the first epoch that are skipped (resume in the middle of an epoch).
        repeat: Whether every epoch has the order and seeds of the first, for debugging.
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
        repeat: bool = False,
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
        self.repeat = repeat

    @property
    def key(self) -> int:
        """The epoch that order and seeds are derived from."""
        return 0 if self.repeat else self.epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        positions = self._positions()
        indices = islice(self._passes(), positions.start, positions.stop, self.world)
        for position, index in zip(positions, indices, strict=True):
            yield index, mix(self.seed, self.domain, self.key, position)

    def arrays(self) -> tuple[Tensor, Tensor]:
        """Return all indices and all seeds of an iteration as tensors."""
        positions = self._positions()
        indices = islice(self._passes(), positions.start, positions.stop, self.world)
        seeds = mix_last((self.seed, self.domain, self.key), np.array(positions, dtype=np.int64))
        return torch.tensor(list(indices), dtype=torch.int64), torch.from_numpy(seeds)

    def _positions(self) -> range:
        # Depends on the epoch, not on the first call: Lightning creates two iterators on resume.
        start = self.start if self.epoch == self.first_epoch else 0
        first = start * self.batch_size * self.world + self.rank
        return range(first, len(self) * self.world, self.world)

    def _passes(self) -> Iterator[int]:
        """Yield the samples of the epoch for all ranks, pass by pass."""
        for number in count():
            yield from self.order(mix(self.seed, self.domain, self.key, -1, number))

    def order(self, seed: int) -> Iterable[int]:
        """Return the order of one pass, a permutation that depends only on ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        permutation: list[int] = torch.randperm(self.size, generator=generator).tolist()
        return permutation


class BalancedSampler(DomainSampler):
    """:class:`DomainSampler` whose batches contain all classes equally often.

    In a batch of all ranks, the numbers of samples of two classes differ by at most one; which
    classes have one more, and the order within the batch, are random. Every class passes through
    permutations of its own samples, so that none is repeated before all have been seen.

    Args:
        labels: ``(N,)`` class of every sample; classes without samples are left out.
        kwargs: As in :class:`DomainSampler`, except ``size``.
    """

    def __init__(self, *, labels: NDArray[np.int64], **kwargs: Any) -> None:
        super().__init__(size=len(labels), **kwargs)
        self.members = self.members_of(labels)

    @staticmethod
    def members_of(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the indices of the samples of every class that has any."""
        return [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def _passes(self) -> Iterator[int]:
        """Yield the samples of the epoch for all ranks, batch by batch."""
        samples = [self._of_class(number) for number in range(len(self.members))]
        for batch in count():
            for number in self._classes(batch):
                yield next(samples[number])

    def _classes(self, batch: int) -> list[int]:
        """Return the classes of a batch of all ranks in the order of its positions."""
        generator = self._generator(-2, batch)
        size, classes = self.batch_size * self.world, len(self.members)
        extra = torch.randperm(classes, generator=generator)[: size % classes]
        chosen = torch.cat([torch.arange(classes).repeat(size // classes), extra])
        order: list[int] = chosen[torch.randperm(size, generator=generator)].tolist()
        return order

    def _of_class(self, number: int) -> Iterator[int]:
        """Yield samples of one class, pass by pass."""
        members = self.members[number]
        for turn in count():
            generator = self._generator(-1, number, turn)
            yield from members[torch.randperm(len(members), generator=generator).numpy()].tolist()

    def _generator(self, *parts: int) -> torch.Generator:
        return torch.Generator().manual_seed(mix(self.seed, self.domain, self.key, *parts))


class ChunkSampler(DomainSampler):
    """:class:`DomainSampler` of chunked data that needs only a few chunks at a time.

    Each pass permutes the chunks and shuffles samples within windows of ``window`` chunks.

    Args:
        chunks: Number of samples of each chunk.
        window: Number of chunks that are shuffled together.
        kwargs: As in :class:`DomainSampler`, except ``size``.
    """

    def __init__(self, *, chunks: Sequence[int], window: int, **kwargs: Any) -> None:
        super().__init__(size=sum(chunks), **kwargs)
        self.window = window
        self.counts = torch.tensor(chunks, dtype=torch.int64)
        self.starts = self.counts.cumsum(0) - self.counts

    def order(self, seed: int) -> Iterator[int]:
        """Yield the order of one pass window by window, without a list of all samples."""
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
    """Yield ``(index, valid)`` in order, each sample on exactly one rank.

    All ranks get the same number of entries, since collectives in the forward pass would hang
    otherwise. Padding entries have ``valid = 0`` and are dropped before metrics are computed.
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
        """Return all indices and all ``valid`` flags of an iteration as tensors."""
        positions = torch.arange(len(self)) * self.world + self.rank
        return positions.clamp(max=self.size - 1), (positions < self.size).long()


def shuffled(indices: Sequence[int]) -> list[int]:
    """Return the indices in a fixed random order, which depends only on their number."""
    order: list[int] = np.random.default_rng(0).permutation(np.asarray(indices)).tolist()
    return order
