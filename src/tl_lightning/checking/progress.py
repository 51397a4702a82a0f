"""A progress bar on stderr, only where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["watched"]


@contextmanager
def watched() -> Iterator[Callable[[int, int], None] | None]:
    """Yield what to call with (done, total); None where nobody is watching."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("looking at pictures"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)
