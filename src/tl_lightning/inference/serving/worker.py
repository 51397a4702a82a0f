"""The thread that owns the model, and the queue of samples before it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tl_lightning.inference.serving.refusal import busy

__all__ = ["Counts", "Worker"]

Input = TypeVar("Input")
Output = TypeVar("Output")
Found = TypeVar("Found")


@dataclass
class _Item(Generic[Input, Output]):
    """A sample on its way: first prepared, then predicted."""

    future: Future[Output]
    value: Input | None = None
    #: Runs alone instead of a batch.
    alone: Callable[[], Output] | None = None


@dataclass
class Counts:
    """What a server has done since its start."""

    samples: int = 0
    batches: int = 0
    answers: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0


class Worker(Generic[Input, Output]):
    """Prepares samples in a few threads and predicts them in batches, in one thread.

    At most ``max_queue`` samples are inside at any time; more are refused. A sample whose future is
    cancelled is left out where it stands, and counts until then.

    Args:
        predict: Maps the samples of a batch to one result each.
        max_batch: Largest batch.
        max_wait_s: How long the first sample of a batch waits for others.
        max_queue: Largest number of samples inside.
        threads: Number of threads that prepare samples.
    """

    def __init__(
        self,
        predict: Callable[[list[Input]], Sequence[Output]],
        *,
        max_batch: int,
        max_wait_s: float,
        max_queue: int,
        threads: int,
    ) -> None:
        self.predict = predict
        self.max_batch = max_batch
        self.max_wait_s = max_wait_s
        self.max_queue = max_queue
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
        self.queue: queue.SimpleQueue[_Item[Input, Output] | None] = queue.SimpleQueue()
        self.counts = Counts()
        self.inside = 0
        self.lock = threading.Lock()
        #: When the batch that is now predicted was started; None between batches.
        self.busy_since: float | None = None
        self.thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread of the model."""
        self.thread.start()

    def stop(self) -> None:
        """End the threads after the samples that are inside."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.queue.put(None)

    def submit(self, prepare: Sequence[Callable[[], Input]]) -> list[Future[Output]]:
        """Prepare and predict samples; return a future for each.

        Args:
            prepare: Makes the network's input of each sample; may raise, which its future reports.

        Raises:
            Refusal: If too many samples are inside already (503).
        """
        self._enter(len(prepare))
        items = [_Item[Input, Output](Future()) for _ in prepare]
        for item, make in zip(items, prepare, strict=True):
            self.pool.submit(self._prepare, item, make)
        return [item.future for item in items]

    def call(self, function: Callable[[], Found]) -> Future[Found]:
        """Run a function in the model's thread, between batches.

        Raises:
            Refusal: If too many samples are inside already (503).
        """
        self._enter(1)
        found: Future[Found] = Future()
        item: _Item[Any, Any] = _Item(found, alone=function)
        self.queue.put(item)
        return found

    def _enter(self, number: int) -> None:
        with self.lock:
            if self.inside + number > self.max_queue:
                raise busy(
                    "busy", f"{self.inside} samples are waiting already; try again in a moment"
                )
            self.inside += number

    def _leave(self, number: int = 1) -> None:
        with self.lock:
            self.inside -= number

    def _prepare(self, item: _Item[Input, Output], make: Callable[[], Input]) -> None:
        try:
            if not item.future.cancelled():
                item.value = make()
        except BaseException as error:
            self._leave()
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(error)
            return
        self.queue.put(item)

    # -- the model's thread --------------------------------------------------------------
    def _run(self) -> None:
        following: _Item[Input, Output] | None = None
        while True:
            first = following or self.queue.get()
            if first is None:
                return
            batch, following, ended = self._batch(first)
            self._serve(batch)
            del batch, first  # not kept until the next sample arrives
            if ended:
                return

    def _batch(
        self, first: _Item[Input, Output]
    ) -> tuple[list[_Item[Input, Output]], _Item[Input, Output] | None, bool]:
        """Return a batch, an item to serve after it, and whether it is the last one."""
        batch = [first]
        if first.alone is not None:
            return batch, None, False
        end = time.monotonic() + self.max_wait_s
        while len(batch) < self.max_batch:
            try:
                item = self.queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return batch, None, True
            if item.alone is not None:
                return batch, item, False
            batch.append(item)
        return batch, None, False

    def _serve(self, batch: list[_Item[Input, Output]]) -> None:
        kept = [item for item in batch if item.future.set_running_or_notify_cancel()]
        try:
            if kept:
                self.busy_since = time.monotonic()
                results = self._results(kept)
                for item, result in zip(kept, results, strict=True):
                    item.future.set_result(result)
        except BaseException as error:  # reported to every request of the batch
            for item in kept:
                if not item.future.done():
                    item.future.set_exception(error)
        finally:
            if self.busy_since is not None:
                self.counts.seconds += time.monotonic() - self.busy_since
            self.busy_since = None
            self._leave(len(batch))

    def _results(self, items: list[_Item[Input, Output]]) -> Sequence[Output]:
        self.counts.samples += len(items)
        self.counts.batches += 1
        if items[0].alone is not None:
            return [items[0].alone()]
        return self.predict([item.value for item in items])  # type: ignore[misc]
