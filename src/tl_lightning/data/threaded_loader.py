"""Data loading with threads, for work in kernels that release the GIL."""

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
    """Yield a thread pool whose threads run torch kernels single-threaded.

    Otherwise every thread would start its own team of OpenMP threads, which compete for the cores:
    ten times slower on a small machine.
    """
    before = torch.get_num_threads()
    ready = Barrier(threads + 1)
    pool = ThreadPoolExecutor(threads, initializer=_use_one_thread)
    try:
        for _ in range(threads):
            pool.submit(ready.wait)
        ready.wait()
        torch.set_num_threads(before)  # the number is per thread; restore that of the caller
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _use_one_thread() -> None:
    torch.get_num_threads()  # the first call initializes the number from the process; do it now
    torch.set_num_threads(1)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], ahead: int
) -> Iterator[Out]:
    """Yield ``work(item)`` in the order of ``items``, computing at most ``ahead`` in advance."""
    pending: deque[Future[Out]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


class ThreadedLoader(DataLoader[Any]):
    """DataLoader whose workers are threads.

    For images that are already decoded: a worker process would spend more time on transferring a
    batch (new shared memory is mapped page by page) than on preparing it.

    Args:
        threads: Number of threads; each prepares whole batches, two in advance.
        kwargs: As for ``DataLoader``, with ``num_workers`` left at 0.
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
