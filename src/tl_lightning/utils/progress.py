"""Progress bar in a terminal, a single line of output elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["advancing", "counting"]


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


#: Seconds between two lines without a terminal.
LINE_EVERY = 30.0


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Yield a function that adds to a count, shown with its rate per second.

    In a terminal it is a bar, elsewhere a line every 30 seconds. With ``earlier=True`` the function
    adds what was done before, which the rate leaves out.

    Args:
        what: What is counted, such as ``images``.
        total: Their number; None if it is not known.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            count = Count(what, total)

            def advance(done: int, earlier: bool = False) -> None:
                bar.update(task, advance=done, description=count.after(done, earlier))

            yield advance
        return
    count, shown = Count(what, total), time.monotonic()

    def advance_line(done: int, earlier: bool = False) -> None:
        nonlocal shown
        text = count.after(done, earlier)
        if time.monotonic() - shown > LINE_EVERY:
            shown = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    yield advance_line


class Count:
    """A number of things done, and how fast.

    Args:
        what: Their name in the plural.
        total: How many there are; None if it is not known.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self.what = what
        self.total = total
        self.done = self.earlier = 0
        self.started = time.monotonic()

    def after(self, more: int, earlier: bool = False) -> str:
        """Return the count in words, after ``more`` have been done, or had been before."""
        self.done += more
        self.earlier += more * earlier
        of = "" if self.total is None else f" of {self.total:,}"
        rate = (self.done - self.earlier) / max(1e-9, time.monotonic() - self.started)
        return f"{self.done:,}{of} {self.what}, {rate:,.1f} {self.what}/s"
