"""Threads that prepare pictures: the work is in kernels that let other threads run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

__all__ = ["ThreadedLoader", "in_order", "pool_of"]

In = TypeVar("In")
Out = TypeVar("Out")


@contextmanager
def pool_of(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose threads compute with one core each.

    Without that, every thread would start a team of its own for each kernel, and the teams would
    spin against one another: ten times slower on a small machine.
    """
    before = torch.get_num_threads()
    ready = Barrier(threads + 1)
    pool = ThreadPoolExecutor(threads, initializer=_alone)
    try:
        for _ in range(threads):
            pool.submit(ready.wait)
        ready.wait()
        torch.set_num_threads(before)  # each thread has its own count, this one keeps its own
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _alone() -> None:
    torch.get_num_threads()  # a thread takes the process's number when it first asks, not later
    torch.set_num_threads(1)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], ahead: int
) -> Iterator[Out]:
    """Yield ``work(item)`` in the items' order, at most ``ahead`` of them computed in advance."""
    waiting: deque[Future[Out]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class ThreadedLoader(DataLoader[Any]):
    """A DataLoader whose workers are threads.

    For pictures that are decoded already: a worker process would spend more time on handing a
    batch over (fresh shared memory is mapped page by page) than on making it.

    Args:
        threads: Number of threads; each prepares whole batches, two ahead.
        kwargs: As for ``DataLoader``; ``num_workers`` stays 0.
    """

    def __init__(self, *args: Any, threads: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.threads = threads

    def __iter__(self) -> Any:
        if not self.threads:
            yield from super().__iter__()
            return
        with pool_of(self.threads) as pool:
            yield from in_order(pool, self._fetch, iter(self.batch_sampler), 2 * self.threads)  # type: ignore[arg-type]

    def _fetch(self, keys: list[Any]) -> Any:
        batch = self.dataset.__getitems__(keys)  # type: ignore[attr-defined]
        if not self.pin_memory:
            return batch
        pinned = {k: v.pin_memory() for k, v in batch.items() if isinstance(v, torch.Tensor)}
        return {**batch, **pinned}
