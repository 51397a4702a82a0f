"""What all rows have in common."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.peers.environments import PEERS, Environment
from benchmarks.peers.rounds import spread
from benchmarks.peers.rows import Value

__all__ = ["NO_ADAPTATION", "Setting", "value"]

NO_ADAPTATION = "has no domain adaptation"


@dataclass
class Setting:
    """What all rows have in common.

    Attributes:
        environments: Environment of each peer.
        data: Folder of photographs with train/<class> and test/<class>, or None.
        rounds: Number of repetitions.
        threads: Compute threads.
        tiny: Whether to only try everything once.
        limit: Seconds after which a part begins no other repetition.
        texts: Folder of texts with train/<class> and test/<class>, or None.
    """

    environments: Mapping[str, Environment]
    data: Path | None
    rounds: int
    threads: int
    tiny: bool = False
    limit: float = 150.0
    texts: Path | None = None

    def repetitions(self, count: int | None = None, least: int = 1) -> Iterator[int]:
        """Yield the numbers of repetitions; one at tiny size, and fewer if the time is over.

        Args:
            count: Their number; None for that of all rows.
            least: Number of repetitions that are made in any case.
        """
        started = time.perf_counter()
        for number in range(1 if self.tiny else count or self.rounds):
            if number >= least and time.perf_counter() - started > self.limit:
                return
            yield number

    def usable(self, names: Sequence[str]) -> dict[str, Environment]:
        """Return the environments of these peers that were made."""
        return {n: self.environments[n] for n in names if not self.environments[n].problem}

    def absent(self, names: Sequence[str]) -> dict[str, str]:
        """Return why the others of these peers are missing."""
        found = {n: self.environments[n].problem for n in names}
        return {PEERS[n].title: f"not installed: {why}" for n, why in found.items() if why}


def value(seconds: Sequence[float], scale: float = 1.0, note: str = "") -> Value:
    """Return the figure of some repetitions."""
    return Value(scale * median(seconds), spread(seconds), len(seconds), note)
