"""Cost of the hashes of files that the caches depend on, the first and the second time.

    python benchmarks/content_keys.py --out /tmp/files

Writes 100,000 files of 2 KB and 5,000 of 200 KB to 1 MB of random bytes in ten folders each, and
measures, each in a process of its own: the first call (reads every file), the second (calls only
``stat``), two first calls at once, and for comparison ``stat`` alone. Files that were just written
are in the memory of the operating system; ``--cold`` drops them before every call (needs root).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RUN = """
import json, os, sys, time
from pathlib import Path
from tl_lightning.data.cache import contents as module
paths = sorted(Path(sys.argv[1]).rglob("*.bin"))
started = time.perf_counter()
if sys.argv[2] == "stat":
    for path in paths:
        os.stat(path)
else:
    found = module.contents(paths)
    assert found.any(axis=1).all() and len(paths) == len(found)
print(json.dumps(time.perf_counter() - started))
"""


def write(folder: Path, number: int, low: int, high: int) -> int:
    rng, total = np.random.default_rng(0), 0
    for k in range(number):
        path = folder / f"c{k % 10}" / f"{k:06d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        total += path.write_bytes(rng.bytes(int(rng.integers(low, high + 1))))
    return total


def seconds(folder: Path, cache: Path, what: str, at_once: int, cold: bool) -> list[float]:
    if cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    command = [sys.executable, "-c", RUN, str(folder), what]
    environment = {**os.environ, "TL_CACHE": str(cache)}
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(at_once)
    ]
    return [round(json.loads(child.communicate()[0]), 2) for child in children]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=5_000)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    files = {"small": (args.small, 2000, 2000), "large": (args.large, 200_000, 10**6)}
    for name, sizes in files.items():
        folder, cache = args.out / name, args.out / "cache"
        total = write(folder, *sizes)
        time.sleep(3)  # younger files are not remembered
        calls = [("stat", 1), ("first", 1), ("second", 1), ("first", 2), ("second", 2)]
        for what, at_once in calls:
            if what == "first":
                shutil.rmtree(cache, ignore_errors=True)
            took = seconds(folder, cache, what, at_once, args.cold)
            index = sum(path.stat().st_size for path in cache.rglob("*.npz"))
            about = f"{name}: {sizes[0]:,} files, {total / 1e9:.2f} GB, {what} x {at_once}"
            print(f"{about}: {took} s, index {index / 1e6:.1f} MB", flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(args.out / "cache")


if __name__ == "__main__":
    main()
