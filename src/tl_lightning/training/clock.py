"""Timing of the parts of a run."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Seconds of each part of a run."""

    def __init__(self) -> None:
        self.begin = self.last = time.monotonic()
        self.laps: dict[str, float] = {}

    def start(self) -> None:
        """Begin a part."""
        self.last = time.monotonic()

    def lap(self, name: str) -> None:
        """End a part, and begin the next one."""
        now = time.monotonic()
        self.laps[name], self.last = now - self.last, now

    def total(self) -> float:
        """Return the seconds from the beginning to the last part's end."""
        return self.last - self.begin
