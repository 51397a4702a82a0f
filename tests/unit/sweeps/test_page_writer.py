"""Pages of sweep jobs are written by a second process while the next job trains."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tl_lightning.errors import DataError
from tl_lightning.sweeps import jobs, page_writer
from tl_lightning.sweeps.page_writer import PageWriter
from tl_lightning.utils.files import write_json


@pytest.fixture(autouse=True)
def no_failures(monkeypatch):
    monkeypatch.setattr(jobs, "failures", [])


@pytest.fixture
def own_pages(monkeypatch) -> list:
    """Return the folders whose pages this process writes."""
    written: list = []
    monkeypatch.setattr(page_writer, "write_job_page", written.append)
    return written


def folders(tmp_path, count: int = 3) -> list:
    for number in range(count):
        (tmp_path / str(number)).mkdir()
    return [tmp_path / str(number) for number in range(count)]


def replaced_process(monkeypatch, program: str) -> None:
    """Let another program take the place of the process that writes pages."""
    monkeypatch.setattr(
        page_writer, "_start",
        lambda: subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True),
    )  # fmt: skip


ANSWERS = """
import json
for _ in range({count}):
    print(json.dumps([json.loads(input()), {problem!r}]), flush=True)
print('["cut of', flush=True)
"""


@pytest.mark.slow
def test_another_process_writes_the_pages(trained, own_pages) -> None:
    writer = PageWriter(background=True)
    page = os.path.join(trained, "report.html")
    assert not os.path.exists(page)
    writer.add(Path(trained), [])
    writer.wait()
    assert "</html>" in Path(page).read_text()
    os.unlink(page)
    assert own_pages == []
    assert jobs.failures == []


@pytest.mark.slow
def test_processes_that_inherit_the_pipe_are_not_waited_for(tmp_path, own_pages, capfd) -> None:
    """Such as the workers of a data loader, which are forked while the pipe is open."""
    writer = PageWriter(background=True)
    writer.add(tmp_path, [])
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
    worker.start()
    began = time.monotonic()
    writer.wait()
    assert time.monotonic() - began < 60
    assert worker.is_alive()
    worker.kill()
    worker.join()
    assert "error: " in capfd.readouterr().err


def test_without_a_second_process_pages_are_written_at_once(tmp_path, own_pages, monkeypatch):
    def none(*args, **kwargs):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(page_writer.subprocess, "Popen", none)
    writer = PageWriter(background=True)
    writer.add(tmp_path, [])
    assert own_pages == [tmp_path]
    writer.wait()
    assert own_pages == [tmp_path]


PRINTS = """
import os, sys
from tl_lightning.sweeps import page_writer
page_writer.write_job_page = lambda folder: (print('""'), os.system("echo 0"))
page_writer._main()
"""


def test_what_libraries_print_is_not_an_answer(tmp_path, own_pages, monkeypatch, capfd) -> None:
    replaced_process(monkeypatch, PRINTS)
    writer = PageWriter(background=True)
    for folder in folders(tmp_path):
        writer.add(folder, [])
    writer.wait()
    assert own_pages == []
    assert jobs.failures == []
    assert capfd.readouterr().err.count('""') == 3


@pytest.mark.slow
def test_a_known_problem_is_reported_and_is_no_failure(tmp_path, own_pages, capfd) -> None:
    writer = PageWriter(background=True)
    writer.add(tmp_path, [])  # a folder with a space and without a report
    writer.wait()
    assert "error: " in capfd.readouterr().err
    assert own_pages == []
    assert jobs.failures == []


def test_pages_are_written_at_once_without_a_second_process(tmp_path, own_pages) -> None:
    writer = PageWriter(background=False)
    for folder in folders(tmp_path):
        writer.add(folder, [])
        assert own_pages[-1] == folder
    writer.wait()
    assert len(own_pages) == 3


@pytest.mark.parametrize("answered", [0, 1])
def test_pages_without_an_answer_are_written_by_this_process(
    tmp_path, own_pages, monkeypatch, answered
) -> None:
    """The other process was killed, for example because memory ran out."""
    replaced_process(monkeypatch, ANSWERS.format(count=answered, problem=""))
    writer, jobs_ = PageWriter(background=True), folders(tmp_path)
    for folder in jobs_:
        writer.add(folder, [])
    writer.wait()
    assert own_pages == jobs_[answered:]


def test_unexpected_errors_are_failures_of_their_jobs(tmp_path, own_pages, monkeypatch) -> None:
    replaced_process(monkeypatch, ANSWERS.format(count=2, problem="ValueError: broken"))
    writer, (first, second, _) = PageWriter(background=True), folders(tmp_path)
    writer.add(first, ["seed=1"])
    writer.add(second, ["seed=2"])
    writer.wait()
    assert jobs.failures == ["ValueError: broken"] * 2
    noted = json.loads((second / "failed.json").read_text())
    assert noted == {"error": "ValueError: broken", "overrides": ["seed=2"]}
    writer.wait()
    assert len(jobs.failures) == 2
    assert own_pages == []


def test_an_unexpected_error_of_this_process_is_a_failure(tmp_path, monkeypatch, capsys) -> None:
    replaced_process(monkeypatch, "")
    write_json(tmp_path / "report.json", {})

    def broken(folder) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(page_writer, "write_job_page", broken)
    writer = PageWriter(background=True)
    writer.add(tmp_path, [])
    writer.wait()
    assert jobs.failures == ["ValueError: broken"]
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_reported(tmp_path, monkeypatch, capsys) -> None:
    from tl_lightning.reporting.run import page

    def full(folder) -> None:
        raise DataError("the disk is full")

    monkeypatch.setattr(page, "write_page", full)
    page_writer.write_job_page(tmp_path)
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_jobs_of_a_launcher_write_their_own_pages() -> None:
    """They run in parallel and use all cores already."""
    found = subprocess.run(
        [sys.executable, "-c", "from tl_lightning.sweeps.page_writer import page_writer; "
         "print(page_writer.background)"],
        env={**os.environ, "TL_PART_OF_SWEEP": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "False\n"
