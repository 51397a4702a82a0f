"""Logits of a random part of the samples, so that memory does not grow with their number."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from tl_lightning.data.transforms.uniforms import uniforms
from tl_lightning.inference.predictor import Array

__all__ = ["LogitSample"]

#: Number of samples that the expected accuracy is estimated on, if there are more.
LIMIT = 10_000


class LogitSample:
    """The logits of the samples whose positions have the smallest random numbers.

    The numbers depend on the positions alone, so that the same samples are drawn if predictions
    are continued.

    Args:
        classes: Number of classes.
        limit: Number of samples to keep.
    """

    def __init__(self, classes: int, limit: int = LIMIT) -> None:
        self.limit = limit
        self.kind = np.dtype([("position", "<i8"), ("logits", "<f4", (classes,))])
        self.kept = np.empty(0, self.kind)
        self.heap: list[tuple[float, int]] = []
        self.seen = 0

    def add(self, positions: Sequence[int], logits: Array) -> bytes:
        """Take samples into account; return those that are kept for now, for :meth:`restore`.

        Args:
            positions: Positions in the input ``(B,)``, larger than all before.
            logits: ``(B, K)``.
        """
        records = np.empty(len(positions), self.kind)
        records["position"], records["logits"] = positions, logits
        self.seen += len(records)
        return self._keep(records).tobytes()

    def restore(self, stored: bytes, seen: int) -> None:
        """Take up the state after ``seen`` samples, from what :meth:`add` returned for them."""
        self._keep(np.frombuffer(stored, self.kind))
        self.seen = seen

    @property
    def logits(self) -> Array:
        """Logits of the kept samples in the order of the input, ``(n, K)``."""
        kept = self.kept[: len(self.heap)]
        found: Array = kept["logits"][np.argsort(kept["position"])]
        return found

    def _keep(self, records: Array) -> Array:
        draws = uniforms(records["position"].tolist(), 1)[:, 0] if len(records) else np.empty(0)
        taken = []
        for row, draw in enumerate(draws.tolist()):
            slot = len(self.heap)
            if slot < self.limit:
                heapq.heappush(self.heap, (-draw, slot))
                self._grow(slot)
            elif draw < -self.heap[0][0]:
                slot = self.heap[0][1]
                heapq.heapreplace(self.heap, (-draw, slot))
            else:
                continue
            self.kept[slot] = records[row]
            taken.append(row)
        return records[taken]

    def _grow(self, slot: int) -> None:
        if slot >= len(self.kept):
            more = np.empty(min(self.limit, max(256, 2 * len(self.kept))), self.kind)
            more[: len(self.kept)] = self.kept
            self.kept = more
