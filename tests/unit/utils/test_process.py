"""The process around a run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tl_lightning.utils import process

HELD = """
import ctypes, sys, torch
from tl_lightning.utils.process import keep_memory
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks",
                "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]
look = getattr(ctypes.CDLL(None), "mallinfo2", None)
if look is None or (sys.argv[1] == "keep" and not keep_memory()):
    sys.exit(7)
look.restype = Info
before = look()
block = torch.ones(1 << 24)  # 64 MB
mapped = look().hblkhd - before.hblkhd
del block
print(mapped, look().arena - before.arena)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's allocator")
def test_freed_memory_stays_with_the_process() -> None:
    """Counted by the allocator itself: page faults depend on what else the machine does."""
    found = {}
    for mode in ("plain", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", HELD, mode], capture_output=True, text=True, check=False
        )
        if done.returncode == 7:
            pytest.skip("not the GNU C library")
        assert done.returncode == 0, done.stderr
        found[mode] = [int(word) for word in done.stdout.split()]
    size = 60 << 20  # of 64 MiB, for what was free before
    mapped, kept = found["plain"]
    assert mapped >= size  # a mapping of its own, handed back when freed
    assert kept < size
    mapped, kept = found["keep"]
    assert mapped == 0
    assert kept >= size


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_has_tuned_the_allocator_keeps_it(name, monkeypatch) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: pytest.fail("touched"))
    assert not process.keep_memory()


def test_another_c_library_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(process.sys, "platform", "linux")
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: object())
    assert not process.keep_memory()
