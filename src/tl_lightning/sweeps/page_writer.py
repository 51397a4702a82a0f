"""Writes the pages of finished sweep jobs while the next job trains.

A page takes seconds of drawing and needs no GPU, so a second process writes it. It is started for
the first page, and handles all pages of the sweep in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from tl_lightning.errors import DataError
from tl_lightning.sweeps.jobs import note_failure
from tl_lightning.utils.console import on_problem

__all__ = ["PageWriter", "page_writer", "write_job_page"]


def write_job_page(folder: Path) -> None:
    """Write the page of a finished job; a full disk is reported and does not fail the job."""
    from tl_lightning.reporting.run.page import write_page

    try:
        write_page(folder)
    except DataError as error:
        on_problem(error)


class PageWriter:
    """Writes pages in a second process.

    Args:
        background: Whether to use a second process; if not, :meth:`add` writes the page itself.
    """

    def __init__(self, background: bool) -> None:
        self.background = background
        self._process: subprocess.Popen[str] | None = None
        #: Folders and overrides of the jobs whose pages the process has not answered for.
        self._open: list[tuple[Path, Sequence[str]]] = []

    def add(self, folder: Path, overrides: Sequence[str]) -> None:
        """Write the page of a job, or let the other process write it.

        Args:
            folder: Run folder of the job.
            overrides: Its overrides, for the record if the page cannot be written.
        """
        if not self.background:
            write_job_page(folder)
            return
        self._open.append((folder, overrides))
        with contextlib.suppress(OSError):  # the process has ended, so wait() writes the page
            process = self._process = self._process or _start()
            assert process.stdin is not None
            process.stdin.write(json.dumps(str(folder.resolve())) + "\n")
            process.stdin.flush()

    def wait(self) -> None:
        """Wait for all pages, and write those for which the other process gave no answer."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            answers = process.communicate()[0].splitlines()
        except BaseException:  # interrupted; the next start of the sweep writes missing pages
            process.kill()
            process.wait()
            raise
        jobs, self._open = self._open, []
        for (folder, overrides), answer in zip_longest(jobs, answers[: len(jobs)]):
            problem = _written(folder) if answer is None else json.loads(answer)
            if problem:
                note_failure(folder, problem, overrides)


def _written(folder: Path) -> str:
    """Write the page of a job; return the message of an unexpected error, or an empty string."""
    try:
        write_job_page(folder)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tl_lightning.sweeps.page_writer", sys.argv[0]],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _cores() -> int:
    """Return the number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


#: That of this process. Jobs that a launcher runs in parallel use all cores already.
page_writer = PageWriter("TL_PART_OF_SWEEP" not in os.environ and _cores() > 1)


def _main() -> None:
    """Write the page of every folder that is read, and print the problem or an empty string."""
    sys.argv[:] = sys.argv[1:]  # messages name the command that started this process
    if hasattr(os, "nice"):
        os.nice(10)  # training comes first
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            print(json.dumps(_written(Path(json.loads(line)))), flush=True)


if __name__ == "__main__":
    _main()
