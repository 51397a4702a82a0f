"""Images that reports show are read once per process."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from layouts import BREEDS, class_folders
from tl_lightning.data import memory, thumbnails
from tl_lightning.data.domain import Split
from tl_lightning.data.memory import KEPT, remembered
from tl_lightning.types import InputSpec


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(memory, "_results", {})


def test_a_result_is_made_once_per_key() -> None:
    made: list[int] = []
    for key in (1, 2, 1, 2):
        assert remembered(("images", key), lambda key=key: made.append(key) or [key]) == [key]
    assert made == [1, 2]


def test_the_oldest_results_are_dropped() -> None:
    for key in range(KEPT + 1):
        remembered(key, lambda: "first")
    assert remembered(0, lambda: "again") == "again"
    assert remembered(KEPT, lambda: "again") == "first"
    assert len(memory._results) == KEPT


def test_thumbnails_of_unchanged_files_are_read_once(tmp_path, monkeypatch) -> None:
    """Also if a file is replaced by another of the same size, name and time."""
    paths = sorted(class_folders(tmp_path, 3, BREEDS[:2]).rglob("*.jpg"))
    paths[0].write_bytes(paths[0].read_bytes().ljust(4000, b"\0"))
    data = SimpleNamespace(input_spec=InputSpec(8, (0.5,) * 3, (0.5,) * 3), caches={})
    split = Split(paths, None, [path.name for path in paths])
    reads: list[int] = []
    read = thumbnails._read
    monkeypatch.setattr(thumbnails, "_read", lambda *given: reads.append(1) or read(*given))
    first, again = (thumbnails.thumbnails(data, "source", split, 8) for _ in range(2))
    time, other = os.stat(paths[0]).st_mtime_ns, paths[-1].read_bytes().ljust(4000, b"\0")
    paths[0].write_bytes(other)
    os.utime(paths[0], ns=(time, time))
    changed = thumbnails.thumbnails(data, "source", split, 8)
    assert len(reads) == 2
    assert first is again
    assert not np.array_equal(first[0], changed[0])
    assert np.array_equal(first[1:], changed[1:])
