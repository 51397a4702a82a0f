"""Worker processes of several libraries that take turns, and rows of what they gave."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.environments import PEERS
from benchmarks.peers.rounds import Measured, interleaved
from benchmarks.peers.rows import OURS, Row, Value
from benchmarks.peers.setting import Setting, value

__all__ = ["Contestant", "compete", "filled", "memory", "race"]

CONTESTANTS = {
    "torch": "torch_loop", "lightning": "lightning_loop", "timm": "timm_step",
    "fastai": "fastai_learner", "pytorch_adapt": "adapt_hooks", "pykale": "kale_trainer",
    "skada": "skada_net",
}  # fmt: skip


class Contestant(NamedTuple):
    """A function of a module in contestants/, and the interpreter that runs it."""

    python: Path
    module: str
    function: str


def race(
    setting: Setting, contestants: Mapping[str, Contestant], steps: int, *more: str
) -> dict[str, Measured]:
    """Measure worker processes in turns.

    Args:
        setting: What all rows have in common.
        contestants: The workers by their names on the page.
        steps: Number of steps in a turn.
        more: Further arguments of the functions.
    """
    worker = ["-m", "benchmarks.peers.worker"]
    common = [str(steps), str(setting.threads), *more]
    found = {n: [str(c.python), *worker, *c[1:], *common] for n, c in contestants.items()}
    turns = range(2) if setting.tiny else setting.repetitions(setting.rounds + 1, least=2)
    return interleaved(found, turns, setting.threads)


def compete(
    setting: Setting, row: str, peers: Sequence[str], steps: int, *more: str
) -> dict[str, Measured]:
    """Measure the worker processes of tl_lightning and of the peers in turns."""
    usable = setting.usable(peers)
    found = {PEERS[n].title: Contestant(e.python, CONTESTANTS[n], row) for n, e in usable.items()}
    if not more:
        found[OURS] = Contestant(Path(sys.executable), "own", row)
    return race(setting, found, steps, *more)


def filled(row: Row, found: Mapping[str, Measured], scale: float, notes: Mapping[str, str]) -> Row:
    """Enter the medians of worker processes in a row."""
    for name, one in found.items():
        if one.problem:
            row.absent[name] = one.problem
        else:
            note = notes.get(name, "")
            loss = f"loss after the first turn {one.first_loss:.4f}"
            row.values[name] = value(one.seconds, scale, f"{note}; {loss}" if note else loss)
    return row


def memory(key: str, title: str, found: Mapping[str, Measured]) -> Row:
    """Return the row of the peak memory of the same worker processes."""
    row = Row(key, title, "MiB", "less", asked=1 / 1.1)
    row.how = "Largest resident memory of the worker process, with the imports (`ru_maxrss`)."
    row.values = {n: Value(one.peak_mb) for n, one in found.items() if not one.problem}
    return row
