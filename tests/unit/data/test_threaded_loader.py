"""Threaded loading: order of batches, errors, cleanup and thread counts."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from tl_lightning.data.threaded_loader import ThreadedLoader, in_order, pool_of


class Squares:
    def __len__(self) -> int:
        return 40

    def __getitems__(self, keys):
        time.sleep(0.002 * (keys[0] % 3))  # some later batches finish first
        if 35 in keys:
            raise ValueError("thirty-five")
        return {"x": torch.tensor(keys) ** 2}


def loader(threads, number=32):
    return ThreadedLoader(
        Squares(), batch_size=4, sampler=range(number), collate_fn=lambda b: b, threads=threads
    )


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_are_in_order(threads) -> None:
    found = [batch["x"].tolist() for batch in loader(threads)]
    assert [x for part in found for x in part] == [k**2 for k in range(32)]
    assert len(loader(threads)) == 8


def test_error_is_raised_and_threads_end() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="thirty-five"):
        list(loader(2, 40))
    assert threading.active_count() == before


def test_closing_the_iterator_ends_the_threads() -> None:
    before = threading.active_count()
    iterator = iter(loader(2))
    next(iterator)
    iterator.close()
    assert threading.active_count() == before


def test_pool_threads_use_one_torch_thread_and_the_caller_keeps_its_number() -> None:
    torch.set_num_threads(2)
    try:
        with pool_of(3) as pool:
            inside = {pool.submit(torch.get_num_threads).result() for _ in range(6)}
            assert torch.get_num_threads() == 2
        assert inside == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_lookahead_is_bounded() -> None:
    started = []
    with pool_of(2) as pool:
        iterator = in_order(pool, lambda k: started.append(k) or k, range(100), ahead=5)
        next(iterator)
        time.sleep(0.05)
        assert len(started) <= 7
        assert list(iterator) == list(range(1, 100))
