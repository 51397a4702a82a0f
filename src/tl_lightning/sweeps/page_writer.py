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
        #: Folders and overrides of the jobs that the process was given.
        self._given: list[tuple[Path, Sequence[str]]] = []

    def add(self, folder: Path, overrides: Sequence[str]) -> None:
        """Write the page of a job, or let the other process write it.

        Args:
            folder: Run folder of the job.
            overrides: Its overrides, for the record if the page cannot be written.
        """
        if self.background and self._process is None:
            self._process = _start()
        if self._process is None:
            write_job_page(folder)
            return
        self._given.append((folder, overrides))
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended, so wait() writes the page
            self._process.stdin.write(json.dumps(str(folder.resolve())) + "\n")
            self._process.stdin.flush()

    def wait(self) -> None:
        """Wait for all pages, and write those for which the other process gave no answer."""
        process, self._process = self._process, None
        given, self._given = self._given, []
        if process is None:
            return
        try:
            # Not the end of the file: loader workers may have inherited the other end of the pipe.
            answers = _answers(process.communicate(f"{_END}\n")[0])
        except BaseException:  # interrupted; the next start of the sweep writes missing pages
            process.kill()
            process.wait()
            raise
        for folder, overrides in given:
            problem = answers.get(str(folder.resolve()))
            problem = _written(folder) if problem is None else problem
            if problem:
                note_failure(folder, problem, overrides)


#: Line after the last folder.
_END = "null"


def _answers(text: str) -> dict[str, str]:
    """Return the problem, or an empty string, by folder."""
    found = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # cut off, as the process was killed
            folder, problem = json.loads(line)
            found[folder] = problem
    return found


def _written(folder: Path) -> str:
    """Write the page of a job; return the message of an unexpected error, or an empty string."""
    try:
        write_job_page(folder)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


def _start() -> subprocess.Popen[str] | None:
    """Start the other process; return None if that is not possible, for lack of memory for example.

    It is not in the group that Ctrl-C is sent to, and finishes its pages if this process ends.
    """
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tl_lightning.sweeps.page_writer", sys.argv[0]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
    except OSError:
        return None


def _cores() -> int:
    """Return the number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


#: That of this process. Jobs that a launcher runs in parallel use all cores already.
page_writer = PageWriter("TL_PART_OF_SWEEP" not in os.environ and _cores() > 1)


def _main() -> None:
    """Write the page of every folder that is read, and answer with the folder and the problem."""
    sys.argv[:] = sys.argv[1:]  # messages name the command that started this process
    if hasattr(os, "nice"):
        os.nice(10)  # training comes first
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    for line in sys.stdin:
        if line.strip() == _END:
            break
        folder = json.loads(line)
        answer = json.dumps([folder, _written(Path(folder))]) + "\n"
        with contextlib.suppress(BrokenPipeError):  # the sweep was stopped; its pages are written
            os.write(answers, answer.encode())


if __name__ == "__main__":
    _main()
