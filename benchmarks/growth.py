"""Growth of time and memory with images, classes, domains and jobs, with exponents.

    python benchmarks/growth.py                          # everything, about ten minutes on one core
    python benchmarks/growth.py only=images,jobs         # some of it
    python benchmarks/growth.py images=100,1000 jobs=2,4 # other sizes

Each point is a run in a process of its own, on generated data: a process that is started, trains a
few steps, validates, tests and reports. Its first figure is the time inside ``fit`` (for jobs, that
of the whole command); memory is the largest resident memory (``ru_maxrss``), with the imports.

The exponent is that of ``a n^b`` between the two largest sizes, where the part that does not grow
weighs least: 1 is linear, 0 constant. Between sizes that differ by a factor of ten, n log n gives
at most 1.2.

images    class folders of PNG files of 8 x 8 pixels, 10 classes, 20 steps of fine-tuning a small
          network; reading the folder, the cache, validation and test grow
classes   20,000 vectors of 16 numbers, DANN, 20 steps
domains   source domains by name with 400 such images each, method=[mdan], 20 steps
jobs      a sweep over seeds of one step each, without baselines, in one process
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[1]
SIZES = {
    "images": (1_000, 10_000, 100_000), "classes": (10, 100, 1_000), "domains": (1, 2, 4),
    "jobs": (10, 100),
}  # fmt: skip
COMMON = (
    "trainer=cpu", "trainer.max_epochs=1", "data.steps_per_epoch=20", "baselines=[]",
    "report.explained=0", "report.thumbnails=0", "selection=last",
)  # fmt: skip
SMALL = (
    "backbone=small_cnn", "backbone.size=8", "backbone.widths=[8,16]", "data.augment=none",
    "data.num_workers=0",
)  # fmt: skip
#: Runs a configuration, and prints the seconds inside fit and the peak memory.
INSIDE = """
import json, resource, sys, time
from pathlib import Path
from tl_lightning.training.fit import fit
from tl_lightning.config.compose import compose
folder, *settings = sys.argv[1:]
started = time.perf_counter()
fit(compose(settings), Path(folder))
seconds = time.perf_counter() - started
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
#: Runs a command, and prints its seconds and the peak memory of its process.
WHOLE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - started
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""


@dataclass(frozen=True)
class Point:
    """Seconds and peak memory (MiB) at a size."""

    size: int
    seconds: float
    memory: float


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return b of ``a n^b`` through the last two points.

    >>> round(exponent([1, 10, 100], [5, 7, 70]), 3)
    1.0
    """
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def asked(code: str, arguments: Sequence[str], cache: Path) -> tuple[float, float]:
    """Run code in a process of its own, and return what it prints last.

    Raises:
        RuntimeError: If it fails; has its last lines.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TL_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], env=environment, cwd=cache,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-3:]))
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Write ``count`` images of 8 x 8 pixels in ten class folders."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    for label in range(10):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for k in range(count // 10):
            pixels = generator.integers(0, 128, (8, 8, 3), dtype=np.uint8) + 12 * label
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{k}.png", compress_level=1)


def images(count: int, folder: Path) -> tuple[float, float]:
    """Train on class folders with ``count`` images."""
    write_images(folder / "data", count)
    settings = [
        "model=fine_tuning", "data=folder", f"data.root={folder / 'data'}", "data.target=null",
        *SMALL, *COMMON,
    ]  # fmt: skip
    return asked(INSIDE, [str(folder / "run"), *settings], folder)


def classes(count: int, folder: Path) -> tuple[float, float]:
    """Train DANN on vectors of ``count`` classes."""
    generator = np.random.default_rng(0)
    centres = 3 * generator.normal(size=(count, 16))
    settings = ["model=dann", "data=vectors", *COMMON]
    for role, shift in (("source", 0.0), ("target", 0.5)):
        labels = np.arange(20_000) % count
        vectors = centres[labels] + shift + generator.normal(size=(len(labels), 16))
        np.savez(folder / f"{role}.npz", x=vectors.astype(np.float32), y=labels)
        settings.append(f"data.{role}.train={folder / role}.npz")
    return asked(INSIDE, [str(folder / "run"), *settings], folder)


def domains(count: int, folder: Path) -> tuple[float, float]:
    """Train with ``count`` source domains by name: MDAN, or DANN on a single one."""
    names = [f"source{k}" for k in range(count)]
    for seed, name in enumerate([*names, "target"]):
        write_images(folder / "data" / name, 400, seed)
    settings = [
        "model=domain_adaptation", f"method=[{'mdan' if count > 1 else 'dann'}]", "data=domains",
        f"data.root={folder / 'data'}", f"data.source.domain=[{','.join(names)}]",
        "data.target.domain=target", "data.batch_size=32", *SMALL, *COMMON,
    ]  # fmt: skip
    return asked(INSIDE, [str(folder / "run"), *settings], folder)


def jobs(count: int, folder: Path) -> tuple[float, float]:
    """Train a sweep of ``count`` jobs of one step each."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    vectors = generator.normal(size=(200, 6)) + 3 * labels[:, None]
    np.savez(folder / "source.npz", x=vectors, y=labels)
    command = [
        sys.executable, str(REPO / "scripts" / "train.py"), "-m", "model=fine_tuning",
        "data=vectors", "data.target=null", f"data.source.train={folder / 'source'}.npz",
        f"seed=range({count})", *COMMON, "data.steps_per_epoch=1",
        f"hydra.sweep.dir={folder / 'sweep'}",
    ]  # fmt: skip
    return asked(WHOLE, command, folder)


MEASURED: dict[str, Callable[[int, Path], tuple[float, float]]] = {
    "images": images, "classes": classes, "domains": domains, "jobs": jobs,
}  # fmt: skip


def grown(name: str, sizes: Sequence[int]) -> list[Point]:
    """Measure every size of one quantity."""
    points = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            points.append(Point(size, *MEASURED[name](size, Path(folder))))
    return points


def table(found: dict[str, list[Point]]) -> str:
    """Return a Markdown table."""
    lines = ["| | sizes | seconds | exponent | peak memory, MiB | exponent |",
             "|---|---|---|---:|---|---:|"]  # fmt: skip
    for name, points in found.items():
        sizes = [one.size for one in points]
        columns = [", ".join(f"{size:,}" for size in sizes)]
        for values, digits in (
            ([one.seconds for one in points], 1),
            ([one.memory for one in points], 0),
        ):
            columns.append(", ".join(f"{value:,.{digits}f}" for value in values))
            columns.append(f"{exponent(sizes, values):.2f}" if len(points) > 1 else "")
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    given = dict(item.partition("=")[::2] for item in arguments)
    only = given.pop("only", "").split(",") if "only" in given else list(given) or list(SIZES)
    if unknown := sorted({*only, *given} - set(SIZES)):
        sys.exit(f"{', '.join(unknown)}: valid are only, {', '.join(SIZES)}")
    found = {}
    for name in only:
        sizes = [int(n) for n in given[name].split(",")] if name in given else SIZES[name]
        started = time.perf_counter()
        found[name] = grown(name, sizes)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
