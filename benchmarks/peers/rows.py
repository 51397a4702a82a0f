"""Rows of the page: what is asked, what was measured, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["OURS", "Row", "Value", "read", "write"]

OURS = "tl_lightning"


@dataclass
class Value:
    """A figure of one library.

    Attributes:
        median: Median of the repetitions, in the unit of the row.
        spread: Half of the range between the quartiles, relative to the median.
        count: Number of repetitions.
        note: What the figure does not include, or how it differs.
    """

    median: float
    spread: float = 0.0
    count: int = 1
    note: str = ""


@dataclass
class Row:
    """One comparison.

    Attributes:
        key: Short name of the row.
        title: What is measured.
        unit: Unit of the figures.
        better: Whether less or more of it is better.
        asked: Smallest ratio to the best peer that is asked for, or with ``absolute`` the largest
            figure; None if there is no such target.
        values: Figures by library.
        absent: Why a library has no figure, by library.
        how: How it was measured.
        absolute: Whether the target is a figure of tl_lightning alone.
        reason: Why the target was missed.
        next_step: What could be done about it.
    """

    key: str
    title: str
    unit: str
    better: Literal["less", "more"]
    asked: float | None = None
    values: dict[str, Value] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    how: str = ""
    absolute: bool = False
    reason: str = ""
    next_step: str = ""

    def best_peer(self) -> str | None:
        """Return the peer with the best figure; ours with other settings is not a peer."""
        values = self.values.items()
        peers = {name: one.median for name, one in values if not name.startswith(OURS)}
        if not peers:
            return None
        return (min if self.better == "less" else max)(peers, key=lambda name: peers[name])

    def ratio(self) -> float | None:
        """Return how many times better ours is than the best peer; below 1 it is worse."""
        peer = self.best_peer()
        if peer is None or OURS not in self.values:
            return None
        ours, theirs = self.values[OURS].median, self.values[peer].median
        return theirs / ours if self.better == "less" else ours / theirs

    def reached(self) -> bool | None:
        """Return whether the target was reached; None if there is none, or no figure."""
        if self.asked is None or OURS not in self.values:
            return None
        if self.absolute:
            ours = self.values[OURS].median
            return ours <= self.asked if self.better == "less" else ours >= self.asked
        ratio = self.ratio()
        return None if ratio is None else ratio >= self.asked

    def behind(self) -> bool:
        """Return whether a peer is better."""
        ratio = self.ratio()
        return ratio is not None and ratio < 1


def write(path: Path, rows: Iterable[Row], about: dict[str, str]) -> None:
    """Store rows, so that a later call can measure the others only."""
    path.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1))


def read(path: Path) -> tuple[list[Row], dict[str, str]]:
    """Return the rows stored so far, and what is said of the machine."""
    if not path.is_file():
        return [], {}
    found = json.loads(path.read_text())
    rows = []
    for one in found["rows"]:
        values = {name: Value(**value) for name, value in one.pop("values").items()}
        rows.append(Row(**one, values=values))
    return rows, found["about"]
