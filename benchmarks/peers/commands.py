"""Whole commands: start-up, lines of code, resuming, and studies of a frozen network."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.peers.rounds import REPO

__all__ = [
    "PROGRAMS", "domains", "first_step", "lines_of", "own_command", "program", "seconds_of",
    "try_resume",
]  # fmt: skip

PROGRAMS = {
    "torch": "torch_dann", "lightning": "lightning_dann", "pytorch_adapt": "adapt_dann",
    "pykale": "kale_dann", "skada": "skada_dann", "fastai": "fastai_tune",
}  # fmt: skip
EPOCHS = 4


def domains(folder: Path, count: int = 600) -> Path:
    """Write two domains of digits as class folders of PNG files: grey, and inverted with noise."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    generator = np.random.default_rng(0)
    for name, start in (("a", 0), ("b", count)):
        for k in range(start, start + count):
            place = folder / name / str(found.target[k])
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.kron(found.images[k] / 16 * 255, np.ones((3, 3)))
            pixels = np.pad(pixels, 2)[..., None].repeat(3, 2)
            if name == "b":
                pixels = 255 - pixels + generator.normal(0, 30, pixels.shape)
            Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(place / f"{k}.png")
    return folder


def environment(threads: int, **more: str) -> dict[str, str]:
    """Return the environment of a command, with a number of compute threads."""
    return {
        **os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": f"{REPO}:{REPO / 'src'}",
        "HYDRA_FULL_ERROR": "1", **more,
    }  # fmt: skip


def program(name: str, python: Path, root: Path, folder: Path, epochs: int = EPOCHS) -> list[str]:
    """Return the command of a peer's program."""
    module = f"benchmarks.peers.programs.{PROGRAMS[name]}"
    return [str(python), "-W", "ignore", "-m", module, str(root), str(folder), str(epochs)]


def own_command(root: Path, folder: Path, epochs: int = EPOCHS) -> list[str]:
    """Return our command for the same training."""
    return [
        sys.executable, str(REPO / "scripts" / "train.py"), "model=dann", "data=domains",
        f"data.root={root}", "data.source.domain=a", "data.target.domain=b", "backbone=small_cnn",
        f"trainer.max_epochs={epochs}", "data.batch_size=64", "resume=auto",
        "checkpointing.min_seconds=0", f"hydra.run.dir={folder}", "allow=[benchmarks]",
        "+callbacks.shown._target_=benchmarks.peers.programs.own_steps.Shown",
    ]  # fmt: skip


def seconds_of(command: Sequence[str], cwd: Path, threads: int, **more: str) -> float:
    """Run a command and return its duration.

    Raises:
        RuntimeError: If it fails; has its last lines.
    """
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, env=environment(threads, **more), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-3:]))
    return time.perf_counter() - started


@contextlib.contextmanager
def running(command: Sequence[str], cwd: Path, threads: int) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and kill it in the end."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment(threads, TL_CACHE=str(cwd / "cache")), text=True,
            stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def until(process: subprocess.Popen[str], wanted: Callable[[str], bool]) -> str:
    """Return the first line of the output that is wanted, or nothing at its end."""
    assert process.stdout is not None
    return next((line.strip() for line in process.stdout if wanted(line)), "")


def first_step(command: Sequence[str], cwd: Path, threads: int) -> float:
    """Return the seconds from the start of a command to the end of its first step.

    Raises:
        RuntimeError: If it ends without a step, as the command alone will show.
    """
    started = time.perf_counter()
    with running(command, cwd, threads) as process:
        if not until(process, lambda line: line.startswith("step")):
            raise RuntimeError("the program ended without a step")
        return time.perf_counter() - started


def try_resume(command: Sequence[str], cwd: Path, threads: int) -> int:
    """Kill a training after two of its epochs, repeat the command, return its first epoch."""
    with running(command, cwd, threads) as process:
        until(process, lambda line: line.strip() == "epoch 2")
    with running(command, cwd, threads) as process:
        # Not what a library prints of its own, such as "epoch 2/4".
        line = until(process, lambda one: re.fullmatch(r"epoch \d+", one.strip()) is not None)
    return int(line.split()[1]) if line else -1


def lines_of(text: str) -> int:
    """Return the number of lines of a program without blank lines, comments and docstrings.

    >>> lines_of('"a docstring"\\n\\n# a comment\\nx = 1\\n')
    1
    """
    tree = ast.parse(text)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0]
            if isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                skipped |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in skipped
        for number, line in lines
    )


def study(data: Path, folder: Path, threads: int, overrides: Sequence[str]) -> Mapping[str, float]:
    """Run a study of a frozen network with an empty cache; return its seconds.

    Returns:
        ``command``, of the whole command, and ``inside``, of training and test.
    """
    key = "hydra.sweep.dir" if "-m" in overrides else "hydra.run.dir"
    command = [
        sys.executable, str(REPO / "scripts" / "train.py"), *overrides,
        "model=feature_extraction", "data=dogs", f"data.root={data}", "data.target=null",
        "data.augment=none", "backbone=mobilenet_v2", "scheduler=constant", f"{key}={folder}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        seconds = seconds_of(command, REPO, threads, TL_CACHE=cache)
    report = folder / "report.json"
    if not report.is_file():
        return {"command": seconds}
    found = json.loads(report.read_text())
    return {
        "command": seconds, "inside": found["timing"]["total_s"],
        "accuracy": found["metrics"]["source/test/acc"],
    }  # fmt: skip
