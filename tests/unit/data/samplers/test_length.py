"""Samplers of texts of similar length: exact passes and little padding."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.samplers.length import BucketSampler, SortedSampler, padding_share

LENGTHS = np.random.default_rng(0).integers(3, 500, 203)


def sampler(window: int = 10, **changes) -> BucketSampler:
    settings = {"batch_size": 8, "num_batches": 25, "seed": 3, "domain": 0, **changes}
    return BucketSampler(lengths=LENGTHS, window=window, **settings)


@pytest.mark.parametrize("world", [1, 2])
def test_pass_yields_every_sample_once(world: int) -> None:
    order = sampler(world=world).order(11)
    assert sorted(order) == list(range(len(LENGTHS)))
    assert order == sampler(world=world).order(11)
    assert order != sampler(world=world).order(12)


@pytest.mark.slow
def test_several_passes_per_epoch_yield_every_sample_equally_often() -> None:
    """203 samples are not a multiple of the batch size, so passes end in the middle of a batch."""
    bucketed = sampler(num_batches=203)  # 8 passes
    counts = Counter(index for index, _ in bucketed)
    assert set(counts.values()) == {8}
    batches = np.array([index for index, _ in bucketed]).reshape(-1, 8)
    spans = np.ptp(LENGTHS[batches], axis=1)
    plain = np.array([index for index, _ in sampler(1, num_batches=203)]).reshape(-1, 8)
    assert np.median(spans) < np.median(np.ptp(LENGTHS[plain], axis=1)) / 5
    # Only batches at the end of a pass or of a window contain both long and short texts.
    assert np.mean(spans > 150) < 0.1


@pytest.mark.parametrize("window", [2, 50])
def test_texts_left_out_of_an_epoch_are_of_any_length(window: int) -> None:
    """25 batches of 8 leave out 3 of 203 texts, which must not be the longest ones."""
    seen, left_out = set(), []
    for epoch in range(60):
        used = {index for index, _ in sampler(window, epoch=epoch)}
        seen |= used
        left_out += sorted(set(range(len(LENGTHS))) - used)
    assert seen == set(range(len(LENGTHS)))
    assert len(left_out) == 3 * 60
    assert abs(LENGTHS[left_out].mean() - LENGTHS.mean()) < 40  # three standard errors are 32


def test_bucketing_reduces_padding_by_two_thirds() -> None:
    order = [index for index, _ in sampler()]
    plain = [index for index, _ in DomainSampler(
        size=len(LENGTHS), batch_size=8, num_batches=25, seed=3, domain=0)]  # fmt: skip
    assert padding_share(LENGTHS, order, 8) < padding_share(LENGTHS, plain, 8) / 3


def test_batches_are_shuffled() -> None:
    batches = np.array(sampler().order(5)[:200]).reshape(-1, 8)
    means = LENGTHS[batches].mean(1)
    increasing = np.mean(np.diff(means) > 0)
    assert 0.25 < increasing < 0.75
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.6


@pytest.mark.parametrize("start", [1, 13, 24])
def test_resumed_epoch_yields_the_remaining_samples(start: int) -> None:
    uninterrupted = list(sampler(epoch=2))
    assert list(sampler(epoch=2, start=start)) == uninterrupted[start * 8 :]
    index, seeds = sampler(epoch=2, start=start).arrays()
    assert list(zip(index.tolist(), seeds.tolist(), strict=True)) == uninterrupted[start * 8 :]


def test_batches_of_all_ranks_have_similar_lengths() -> None:
    ranks = [list(sampler(num_batches=12, world=2, rank=rank)) for rank in (0, 1)]
    indices = [index for rank in ranks for index, _ in rank]
    assert len(indices) == len(set(indices)) == 192
    for k in range(0, 96, 8):
        both = [index for rank in ranks for index, _ in rank[k : k + 8]]
        assert np.ptp(LENGTHS[both]) < 300  # of 496


def test_window_of_one_is_the_plain_permutation() -> None:
    plain = DomainSampler(size=len(LENGTHS), batch_size=8, num_batches=25, seed=3, domain=0)
    assert list(sampler(1)) == list(plain)


def test_larger_windows_reduce_padding() -> None:
    padding = [padding_share(LENGTHS, sampler(window).order(1), 8) for window in (1, 3, 30)]
    assert padding[0] > padding[1] > padding[2]


@pytest.mark.parametrize("world", [1, 3])
def test_sorted_sampler_yields_all_samples_from_long_to_short(world: int) -> None:
    samplers = [SortedSampler(lengths=LENGTHS, rank=rank, world=world) for rank in range(world)]
    indices = sorted(index for each in samplers for index, valid in each if valid)
    assert indices == list(range(len(LENGTHS)))
    assert len({len(list(each)) for each in samplers}) == 1
    first = LENGTHS[[index for index, _ in islice(samplers[0], 50)]]
    assert (np.diff(first) <= 0).all()
    index, valid = samplers[-1].arrays()
    assert list(zip(index.tolist(), valid.tolist(), strict=True)) == list(samplers[-1])
