"""Order of samples: permutations, ranks, seeds and resuming."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tl_lightning.data.samplers.domain import BalancedSampler, DomainSampler, EvalSampler
from tl_lightning.utils.seeding import mix


def sampler(**changes) -> DomainSampler:
    settings = {"size": 20, "batch_size": 4, "num_batches": 5, "seed": 0, "domain": 0}
    return DomainSampler(**{**settings, **changes})


def indices(s: DomainSampler) -> list[int]:
    return [i for i, _ in s]


def test_epoch_is_a_permutation() -> None:
    assert sorted(indices(sampler())) == list(range(20))


def test_domains_of_equal_size_get_different_orders() -> None:
    assert indices(sampler(domain=0)) != indices(sampler(domain=1))


def test_order_is_reproducible_and_depends_on_epoch_and_seed() -> None:
    s = sampler()
    first = list(s)
    s.set_epoch(1)
    second = list(s)
    s.set_epoch(0)
    assert list(s) == first
    assert [i for i, _ in first] != [i for i, _ in second]
    assert not {seed for _, seed in first} & {seed for _, seed in second}
    assert indices(sampler(seed=1)) != indices(sampler(seed=0))


def test_short_domain_is_reshuffled_on_every_pass() -> None:
    order = indices(sampler(size=8, num_batches=6))
    passes = [order[k : k + 8] for k in (0, 8, 16)]
    assert all(sorted(each) == list(range(8)) for each in passes)
    assert passes[0] != passes[1] != passes[2]


def test_ranks_divide_the_global_order() -> None:
    """Two ranks with half the batch size see the samples and seeds that a single rank sees."""
    single = list(sampler(batch_size=8, num_batches=5, size=40))
    ranks = [list(sampler(size=40, rank=r, world=2)) for r in (0, 1)]
    interleaved = [pair for both in zip(*ranks, strict=True) for pair in both]
    assert interleaved == single


@pytest.mark.parametrize("start", [0, 1, 4])
def test_start_skips_batches_of_the_first_epoch(start: int) -> None:
    uninterrupted = list(sampler(epoch=3))
    resumed = sampler(epoch=3, start=start)
    assert list(resumed) == uninterrupted[start * 4 :]
    # Lightning creates two iterators when it resumes.
    assert list(resumed) == uninterrupted[start * 4 :]
    resumed.set_epoch(4)
    assert list(resumed) == list(sampler(epoch=4))  # only the first epoch is shortened
    assert len(resumed) == 20


def test_eval_sampler_yields_each_sample_on_exactly_one_rank() -> None:
    parts = [list(EvalSampler(size=11, rank=r, world=3)) for r in range(3)]
    assert {len(p) for p in parts} == {4}
    assert sorted(i for p in parts for i, valid in p if valid) == list(range(11))


def test_mix_depends_on_all_arguments_and_their_order() -> None:
    seen = {mix(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(seen) == 512


def test_domains_of_different_sizes_on_two_ranks() -> None:
    """An epoch is one pass over the larger domain and several, differing passes over the other."""
    large, small, batch = 48, 10, 4
    steps = large // (2 * batch)

    def order(size: int, domain: int, epoch: int) -> tuple[list[int], list[set[int]]]:
        settings = {"size": size, "domain": domain, "num_batches": steps, "epoch": epoch}
        ranks = [indices(sampler(**settings, world=2, rank=rank)) for rank in (0, 1)]
        return [i for both in zip(*ranks, strict=True) for i in both], [set(r) for r in ranks]

    single_pass, ranks = order(large, 0, epoch=0)
    assert sorted(single_pass) == list(range(large))
    assert not ranks[0] & ranks[1]
    cycled, _ = order(small, 1, epoch=0)
    passes = [tuple(cycled[k : k + small]) for k in range(0, len(cycled) - small + 1, small)]
    assert len(passes) == 4
    assert all(sorted(each) == list(range(small)) for each in passes)
    later, _ = order(small, 1, epoch=1)
    passes += [tuple(later[k : k + small]) for k in range(0, len(later) - small + 1, small)]
    assert len(set(passes)) == len(passes)


def test_101_samples_on_two_ranks_are_each_evaluated_once() -> None:
    ranks = [list(EvalSampler(size=101, rank=rank, world=2)) for rank in (0, 1)]
    assert [len(rank) for rank in ranks] == [51, 51]
    assert sorted(i for rank in ranks for i, valid in rank if valid) == list(range(101))


#: 31 samples of class 2, 9 of class 0, 3 of class 5; no samples of the classes between.
LABELS = np.array([2] * 31 + [0] * 9 + [5] * 3)


def balanced(**changes) -> BalancedSampler:
    settings = {"labels": LABELS, "batch_size": 4, "num_batches": 30, "seed": 0, "domain": 0}
    return BalancedSampler(**{**settings, **changes})


def batches_of_classes(batch: int = 4, **changes) -> list[list[int]]:
    classes = LABELS[indices(balanced(batch_size=batch, **changes))].tolist()
    return [classes[k : k + batch] for k in range(0, len(classes), batch)]


@pytest.mark.parametrize("batch", [2, 3, 4, 8, 9])
def test_balanced_batches_differ_by_at_most_one_sample_per_class(batch: int) -> None:
    counts = [Counter(classes) for classes in batches_of_classes(batch)]
    assert len(counts) == 30
    for count in counts:
        assert {count[label] for label in (0, 2, 5)} <= {batch // 3, -(-batch // 3)}
    # The classes with one more sample, and the order, change from batch to batch.
    if batch % 3:
        assert len({tuple(sorted(count.items())) for count in counts}) == 3
    assert len(set(map(tuple, batches_of_classes(batch)))) > 3


def test_balanced_classes_pass_through_their_own_permutations() -> None:
    order = indices(balanced(num_batches=60))
    passes = set()
    for label in (0, 2, 5):
        members = np.flatnonzero(label == LABELS)
        drawn = [index for index in order if LABELS[index] == label]
        for start in range(0, len(drawn) - len(members) + 1, len(members)):
            part = drawn[start : start + len(members)]
            assert sorted(part) == members.tolist()
            passes.add(tuple(part))
    assert len(passes) > 8 + 2 + 3  # of at least 8, 2 and 26 passes; three samples have six orders


def test_balanced_order_depends_on_seed_domain_and_epoch() -> None:
    first = list(balanced())
    assert list(balanced()) == first
    others = [list(balanced(**change)) for change in ({"seed": 1}, {"domain": 1}, {"epoch": 1})]
    assert all([i for i, _ in other] != [i for i, _ in first] for other in others)
    positions = [seed for _, seed in sampler(size=43, num_batches=30)]
    assert [seed for _, seed in first] == positions  # augmentation as with uniform sampling
    index, seeds = balanced().arrays()
    assert list(zip(index.tolist(), seeds.tolist(), strict=True)) == first


def test_balanced_ranks_divide_the_global_order() -> None:
    single = list(balanced(batch_size=8))
    ranks = [list(balanced(rank=r, world=2)) for r in (0, 1)]
    assert [pair for both in zip(*ranks, strict=True) for pair in both] == single
    # A rank does not always have the same classes, even if their number divides that of the ranks.
    two = {"labels": LABELS % 2, "batch_size": 2, "world": 2}
    for rank in (0, 1):
        assert set(LABELS[indices(balanced(**two, rank=rank))] % 2) == {0, 1}


@pytest.mark.parametrize("start", [1, 29])
def test_balanced_start_skips_batches(start: int) -> None:
    whole = list(balanced(epoch=2))
    resumed = balanced(epoch=2, start=start)
    assert list(resumed) == list(resumed) == whole[start * 4 :]
