"""Which sample comes when: a pure function of the seed, the domain, the epoch and the rank count.

Lightning's injected ``DistributedSampler`` gives two equal-sized domains identical indices in
every step and repeats one order when a short domain is cycled; resuming starts another order.
Here nothing depends on the process's random state, so a resumed run sees exactly the samples that
the uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from tl_lightning.data.seeds import mix

__all__ = ["DomainSampler", "EvalSampler"]


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
        needed = len(self) * self.world
        order: list[int] = []
        passes = 0
        while len(order) < needed:
            generator = torch.Generator().manual_seed(
                mix(self.seed, self.domain, self.epoch, -1, passes)
            )
            order += torch.randperm(self.size, generator=generator).tolist()
            passes += 1
        # Tied to the epoch, not to the first call: Lightning makes two iterators when it resumes.
        start = self.start if self.epoch == self.first_epoch else 0
        for k in range(start * self.batch_size, len(self)):
            position = k * self.world + self.rank
            yield order[position], mix(self.seed, self.domain, self.epoch, position)


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
