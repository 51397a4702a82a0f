"""Which sample comes when."""

from __future__ import annotations

import pytest

from tl_lightning.data.samplers.domain import DomainSampler, EvalSampler
from tl_lightning.utils.seeding import mix


def sampler(**changes) -> DomainSampler:
    plain = {"size": 20, "batch_size": 4, "num_batches": 5, "seed": 0, "domain": 0}
    return DomainSampler(**{**plain, **changes})


def indices(s: DomainSampler) -> list[int]:
    return [i for i, _ in s]


def test_an_epoch_is_a_permutation() -> None:
    assert sorted(indices(sampler())) == list(range(20))


def test_domains_of_equal_size_get_different_orders() -> None:
    assert indices(sampler(domain=0)) != indices(sampler(domain=1))


def test_every_epoch_and_seed_has_its_own_order_and_repeats_exactly() -> None:
    s = sampler()
    first = list(s)
    s.set_epoch(1)
    second = list(s)
    s.set_epoch(0)
    assert list(s) == first
    assert [i for i, _ in first] != [i for i, _ in second]
    assert not {seed for _, seed in first} & {seed for _, seed in second}
    assert indices(sampler(seed=1)) != indices(sampler(seed=0))


def test_a_short_domain_is_reshuffled_every_time_round() -> None:
    got = indices(sampler(size=8, num_batches=6))
    rounds = [got[k : k + 8] for k in (0, 8, 16)]
    assert all(sorted(r) == list(range(8)) for r in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_ranks_share_the_same_stream_by_global_position() -> None:
    """Two ranks with half the batch see exactly what one rank sees, seeds included."""
    one = list(sampler(batch_size=8, num_batches=5, size=40))
    two = [list(sampler(size=40, rank=r, world=2)) for r in (0, 1)]
    woven = [pair for both in zip(*two, strict=True) for pair in both]
    assert woven == one


@pytest.mark.parametrize("start", [0, 1, 4])
def test_starting_in_the_middle_goes_on_where_it_stopped(start: int) -> None:
    whole = list(sampler(epoch=3))
    resumed = sampler(epoch=3, start=start)
    assert list(resumed) == whole[start * 4 :]
    assert list(resumed) == whole[start * 4 :]  # Lightning makes two iterators when it resumes
    resumed.set_epoch(4)
    assert list(resumed) == list(sampler(epoch=4))  # only the first epoch is shortened
    assert len(resumed) == 20


def test_eval_sampler_shows_every_sample_on_exactly_one_rank() -> None:
    parts = [list(EvalSampler(size=11, rank=r, world=3)) for r in range(3)]
    assert {len(p) for p in parts} == {4}
    assert sorted(i for p in parts for i, valid in p if valid) == list(range(11))


def test_mix_depends_on_order_and_every_part() -> None:
    seen = {mix(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(seen) == 512


def test_uneven_domains_over_two_ranks() -> None:
    """An epoch shows the larger domain once; the smaller one comes round in ever new orders."""
    large, small, batch = 48, 10, 4
    steps = large // (2 * batch)

    def shown(size: int, domain: int, epoch: int) -> tuple[list[int], list[set[int]]]:
        place = {"size": size, "domain": domain, "num_batches": steps, "epoch": epoch, "world": 2}
        ranks = [indices(sampler(**place, rank=rank)) for rank in (0, 1)]
        return [i for both in zip(*ranks, strict=True) for i in both], [set(r) for r in ranks]

    whole, ranks = shown(large, 0, epoch=0)
    assert sorted(whole) == list(range(large))
    assert not ranks[0] & ranks[1]
    cycled, _ = shown(small, 1, epoch=0)
    rounds = [tuple(cycled[k : k + small]) for k in range(0, len(cycled) - small + 1, small)]
    assert len(rounds) == 4
    assert all(sorted(each) == list(range(small)) for each in rounds)
    later, _ = shown(small, 1, epoch=1)
    rounds += [tuple(later[k : k + small]) for k in range(0, len(later) - small + 1, small)]
    assert len(set(rounds)) == len(rounds)


def test_101_samples_over_two_ranks_are_each_evaluated_once() -> None:
    ranks = [list(EvalSampler(size=101, rank=rank, world=2)) for rank in (0, 1)]
    assert [len(rank) for rank in ranks] == [51, 51]
    assert sorted(i for rank in ranks for i, valid in rank if valid) == list(range(101))
