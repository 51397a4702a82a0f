"""Orders of texts: exact, and with little padding."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.samplers.length import BucketSampler, SortedSampler, padding_share

LENGTHS = np.random.default_rng(0).integers(3, 500, 203)


def sampler(window: int = 10, **changes) -> BucketSampler:
    place = {"batch_size": 8, "num_batches": 25, "seed": 3, "domain": 0, **changes}
    return BucketSampler(lengths=LENGTHS, window=window, **place)


@pytest.mark.parametrize("world", [1, 2])
def test_a_pass_shows_every_sample_once(world: int) -> None:
    order = sampler(world=world).order(11)
    assert sorted(order) == list(range(len(LENGTHS)))
    assert order == sampler(world=world).order(11)
    assert order != sampler(world=world).order(12)


def test_several_passes_in_an_epoch_show_every_sample_equally_often() -> None:
    """203 samples fill no whole number of batches: a pass ends within one."""
    place = sampler(num_batches=203)  # 8 passes
    shown = Counter(index for index, _ in place)
    assert set(shown.values()) == {8}
    batches = np.array([index for index, _ in place]).reshape(-1, 8)
    spans = np.ptp(LENGTHS[batches], axis=1)
    plain = np.array([index for index, _ in sampler(1, num_batches=203)]).reshape(-1, 8)
    assert np.median(spans) < np.median(np.ptp(LENGTHS[plain], axis=1)) / 5
    # No more than the batches at a pass's end and at a window's hold both long and short texts.
    assert np.mean(spans > 150) < 0.1


@pytest.mark.parametrize("window", [2, 50])
def test_what_an_epoch_leaves_out_is_of_any_length(window: int) -> None:
    """25 batches of 8 leave 3 of 203 texts out, in no epoch the longest of all or of a window."""
    seen, left = set(), []
    for epoch in range(60):
        shown = {index for index, _ in sampler(window, epoch=epoch)}
        seen |= shown
        left += sorted(set(range(len(LENGTHS))) - shown)
    assert seen == set(range(len(LENGTHS)))
    assert len(left) == 3 * 60
    assert abs(LENGTHS[left].mean() - LENGTHS.mean()) < 40  # three standard errors are 32


def test_little_is_padded() -> None:
    order = [index for index, _ in sampler()]
    plain = [index for index, _ in DomainSampler(
        size=len(LENGTHS), batch_size=8, num_batches=25, seed=3, domain=0)]  # fmt: skip
    assert padding_share(LENGTHS, order, 8) < padding_share(LENGTHS, plain, 8) / 3


def test_batches_come_in_a_mixed_order() -> None:
    batches = np.array(sampler().order(5)[:200]).reshape(-1, 8)
    means = LENGTHS[batches].mean(1)
    rises = np.mean(np.diff(means) > 0)
    assert 0.25 < rises < 0.75
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.6


@pytest.mark.parametrize("start", [1, 13, 24])
def test_going_on_in_an_epoch_shows_what_was_left(start: int) -> None:
    whole = list(sampler(epoch=2))
    assert list(sampler(epoch=2, start=start)) == whole[start * 8 :]
    index, seeds = sampler(epoch=2, start=start).arrays()
    assert list(zip(index.tolist(), seeds.tolist(), strict=True)) == whole[start * 8 :]


def test_ranks_share_a_batch_of_like_lengths() -> None:
    ranks = [list(sampler(num_batches=12, world=2, rank=rank)) for rank in (0, 1)]
    shown = [index for rank in ranks for index, _ in rank]
    assert len(shown) == len(set(shown)) == 192
    for k in range(0, 96, 8):
        both = [index for rank in ranks for index, _ in rank[k : k + 8]]
        assert np.ptp(LENGTHS[both]) < 300  # of 496


def test_a_window_of_one_is_the_plain_permutation() -> None:
    plain = DomainSampler(size=len(LENGTHS), batch_size=8, num_batches=25, seed=3, domain=0)
    assert list(sampler(1)) == list(plain)


def test_the_window_decides_how_like_the_lengths_are() -> None:
    shares = [padding_share(LENGTHS, sampler(window).order(1), 8) for window in (1, 3, 30)]
    assert shares[0] > shares[1] > shares[2]


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_goes_from_long_to_short_and_shows_all_once(world: int) -> None:
    samplers = [SortedSampler(lengths=LENGTHS, rank=rank, world=world) for rank in range(world)]
    valid = sorted(index for one in samplers for index, real in one if real)
    assert valid == list(range(len(LENGTHS)))
    assert len({len(list(one)) for one in samplers}) == 1
    first = LENGTHS[[index for index, _ in islice(samplers[0], 50)]]
    assert (np.diff(first) <= 0).all()
    index, real = samplers[-1].arrays()
    assert list(zip(index.tolist(), real.tolist(), strict=True)) == list(samplers[-1])
