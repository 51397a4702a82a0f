"""Process-wide settings: the memory allocator."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tl_lightning.utils import process

SCRIPT = """
import ctypes, sys, torch
from tl_lightning.utils.process import keep_memory
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks",
                "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]
mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
if mallinfo is None or (sys.argv[1] == "keep" and not keep_memory()):
    sys.exit(7)
mallinfo.restype = Info
before = mallinfo()
block = torch.ones(1 << 24)  # 64 MB
mapped = mallinfo().hblkhd - before.hblkhd
del block
print(mapped, mallinfo().arena - before.arena)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the allocator of glibc")
def test_freed_memory_stays_with_the_process() -> None:
    """Uses the allocator's own statistics: page fault counts depend on the machine's load."""
    results = {}
    for mode in ("plain", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=False
        )
        if done.returncode == 7:
            pytest.skip("needs glibc")
        assert done.returncode == 0, done.stderr
        results[mode] = [int(number) for number in done.stdout.split()]
    size = 60 << 20  # of 64 MiB: some of the memory may have been free before
    mapped, kept = results["plain"]
    assert mapped >= size  # a separate mapping, returned to the system when freed
    assert kept < size
    mapped, kept = results["keep"]
    assert mapped == 0
    assert kept >= size


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_user_tuned_allocator_is_left_unchanged(name, monkeypatch) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: pytest.fail("touched"))
    assert not process.keep_memory()


def test_other_c_libraries_are_left_unchanged(monkeypatch) -> None:
    monkeypatch.setattr(process.sys, "platform", "linux")
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: object())
    assert not process.keep_memory()


@pytest.mark.parametrize("gpu", [False, True])
def test_the_drivers_library_is_not_looked_for_in_every_step_without_a_gpu(monkeypatch, gpu):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr(process.torch.cuda, "is_available", lambda: gpu)
    process.skip_gpu_checks()
    assert ("PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ) is gpu
