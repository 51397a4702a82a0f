"""Turns of worker processes, interleaved so that changes of the machine affect all alike."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any

__all__ = ["Measured", "interleaved", "spread"]

REPO = Path(__file__).resolve().parents[2]


@dataclass
class Measured:
    """What the rounds of one contestant gave.

    Attributes:
        seconds: Duration of each turn, without the first one.
        processor: Processor time of each turn, without the first one, in seconds.
        peak_mb: Largest resident memory of the process, in MiB.
        first_loss: Loss at the end of the first turn.
        problem: Why it has no result.
    """

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    first_loss: float = 0.0
    problem: str = ""


def spread(values: Sequence[float]) -> float:
    """Return half of the range between the quartiles, relative to the median."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2 / median(ordered)


class Worker:
    """A process that answers each line on its standard input."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        self.errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the process
        path = f"{REPO}:{REPO / 'src'}"  # not another clone's, where ours is installed from
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
        self.process = subprocess.Popen(
            command, cwd=REPO, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip

    def turn(self) -> dict[str, Any] | None:
        """Return the answer to one turn, or None if the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def problem(self) -> str:
        """Return the last line of what the process printed as an error."""
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"ended with code {self.process.wait()}"

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()


def interleaved(
    commands: Mapping[str, Sequence[str]], rounds: Iterable[int], threads: int
) -> dict[str, Measured]:
    """Give the workers their turns, of which the first is not counted.

    Args:
        commands: Command of each worker by its name.
        rounds: Numbers of the turns, from 0 on.
        threads: Compute threads of each worker.
    """
    found = {name: Measured() for name in commands}
    workers = {name: Worker(command, threads) for name, command in commands.items()}
    try:
        for number in rounds:
            order = list(workers)
            for name in order if number % 2 else reversed(order):
                answer = workers[name].turn()
                if answer is None:
                    found[name] = Measured(problem=workers[name].problem())
                    workers.pop(name).close()
                    continue
                found[name].peak_mb = answer["peak_mb"]
                if number:
                    found[name].seconds.append(answer["seconds"])
                    found[name].processor.append(answer["processor"])
                else:
                    found[name].first_loss = answer["loss"]
    finally:
        for worker in workers.values():
            worker.close()
    return found
