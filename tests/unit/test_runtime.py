"""The process around a run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tl_lightning import runtime

FAULTS = """
import resource, sys, torch
from tl_lightning.runtime import keep_memory
if sys.argv[1] == "keep" and not keep_memory():
    sys.exit(7)
def step():
    kept = [torch.ones(1 << 24) for _ in range(2)]  # 64 MB each
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's allocator")
def test_freed_memory_is_used_again_without_a_page_fault() -> None:
    found = {}
    for mode in ("plain", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=False
        )
        if done.returncode == 7:
            pytest.skip("not the GNU C library")
        assert done.returncode == 0, done.stderr
        found[mode] = int(done.stdout)
    # 163,840 pages are touched; some systems take idle pages back all the same.
    assert found["plain"] > 100_000
    assert found["keep"] < found["plain"] / 2


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_has_tuned_the_allocator_keeps_it(name, monkeypatch) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: pytest.fail("touched"))
    assert not runtime.keep_memory()


def test_another_c_library_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: object())
    assert not runtime.keep_memory()
