"""Samplers that batch texts of similar length to reduce padding."""

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
    """:class:`DomainSampler` whose batches contain texts of similar length.

    Each pass permutes the samples, sorts them by length within windows of ``window`` batches of all
    ranks, cuts them into batches and shuffles the batches. Every sample still occurs once per pass,
    and the order depends only on the seed.

    Args:
        lengths: Number of tokens of each text.
        window: Number of batches that are sorted together; 1 for the plain permutation.
        kwargs: As in :class:`DomainSampler`, except ``size``.
    """

    def __init__(self, *, lengths: Lengths, window: int, **kwargs: Any) -> None:
        super().__init__(size=len(lengths), **kwargs)
        self.lengths = np.asarray(lengths)
        self.window = window

    def _passes(self) -> Iterator[int]:
        """Yield the samples of the epoch for all ranks; passes may end in the middle of a batch."""
        global_batch = self.batch_size * self.world
        for number in count():
            seed = mix(self.seed, self.domain, self.key, -1, number)
            yield from self.bucketed(seed, -number * self.size % global_batch)

    def order(self, seed: int) -> list[int]:
        """Return the order of one pass that starts with a new batch."""
        return self.bucketed(seed, 0)

    def bucketed(self, seed: int, begun: int) -> list[int]:
        """Return the order of one pass.

        Args:
            seed: Seed of the order.
            begun: Number of samples that complete the last batch of the previous pass.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.size, generator=generator).numpy()
        if self.window == 1:
            return [int(index) for index in order]
        global_batch = self.batch_size * self.world
        # The remainder that does not fill a batch is set aside before sorting. Otherwise the
        # longest texts would be left out whenever an epoch ends with the pass.
        begun = min(begun, self.size)
        end = begun + (self.size - begun) // global_batch * global_batch
        first, middle, remainder = order[:begun], order[begun:end], order[end:]
        batches = []
        for start in range(0, len(middle), self.window * global_batch):
            bucket = middle[start : start + self.window * global_batch]
            bucket = bucket[np.argsort(self.lengths[bucket], kind="stable")]
            batches += [bucket[k : k + global_batch] for k in range(0, len(bucket), global_batch)]
        shuffled = [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]
        return [int(index) for index in np.concatenate([first, *shuffled, remainder])]


class SortedSampler(EvalSampler):
    """Yield ``(index, valid)`` from the longest to the shortest text, each on exactly one rank.

    Args:
        lengths: Number of tokens of each text.
        rank: Rank of this process.
        world: Number of ranks.
    """

    def __init__(self, *, lengths: Lengths, rank: int = 0, world: int = 1) -> None:
        super().__init__(size=len(lengths), rank=rank, world=world)
        self.places = torch.from_numpy(np.argsort(-np.asarray(lengths), kind="stable"))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        index, valid = self.arrays()
        yield from zip(index.tolist(), valid.tolist(), strict=True)

    def arrays(self) -> tuple[Tensor, Tensor]:
        """Return all indices and all ``valid`` flags of an iteration as tensors."""
        positions, valid = super().arrays()
        return self.places[positions], valid


def padding_share(lengths: Lengths, order: Sequence[int], batch_size: int) -> float:
    """Return the fraction of padding tokens in the batches.

    >>> padding_share([2, 4], [0, 1], 2), padding_share([2, 4], [0, 1], 1)
    (0.25, 0.0)
    """
    ordered = np.asarray(lengths)[np.asarray(order, dtype=np.int64)]
    batches = [ordered[k : k + batch_size] for k in range(0, len(ordered), batch_size)]
    padded = sum(int(batch.max()) * len(batch) for batch in batches)
    return float(1 - ordered.sum() / padded)
