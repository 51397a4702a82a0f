"""Progress bar in a terminal, a single line of output elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["advancing"]


@contextmanager
def advancing(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the bar by a number of items; print the elapsed time."""
    started = time.monotonic()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(text, total=total)
            yield lambda done: bar.advance(task, done)
    else:
        yield lambda done: None
    seconds = time.monotonic() - started
    print(f"{text}: {seconds:.1f} s", file=sys.stderr, flush=True)
