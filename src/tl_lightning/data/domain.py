"""Domains and their splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DOMAINS", "Domain", "Split"]

Change = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Split:
    """One split of one domain.

    Attributes:
        pictures: Paths, or pixels ``(N, H, W, 3)`` uint8.
        labels: ``(N,)`` class indices, or None where there are none.
        names: A stable name of each picture, relative to the domain's root.
        change: A fixed change of every picture (a synthetic shift): ``change(picture, key)``, the
            key from its name.
        others: Labels of further tasks by name, ``(N, ...)`` numbers.
    """

    pictures: Sequence[Path] | NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    names: Sequence[str]
    change: Change | None = None
    others: Mapping[str, NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def without_labels(self) -> Split:
        """Return the same pictures with the labels gone (not hidden)."""
        return replace(self, labels=None, others=None)

    def subset(self, keep: Sequence[int]) -> Split:
        """Return the samples at ``keep``, in that order."""
        chosen = np.asarray(keep, dtype=np.int64)
        pictures: Any = (
            self.pictures[chosen]
            if isinstance(self.pictures, np.ndarray)
            else [self.pictures[i] for i in chosen]
        )
        labels = None if self.labels is None else self.labels[chosen]
        names = [self.names[i] for i in chosen]
        others = self.others and {name: values[chosen] for name, values in self.others.items()}
        return replace(self, pictures=pictures, labels=labels, names=names, others=others)


@dataclass(frozen=True)
class Domain:
    """One domain with its splits.

    Attributes:
        name: What the report calls it.
        classes: Class names; labels index them.
        train, val, test: The splits; no picture is in two of them.
        note: A sentence that the report must show (for instance "synthetic shift").
        labelled: Of a target: the few training pictures that keep their labels, or None.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    note: str = ""
    labelled: Split | None = None

    def splits(self) -> dict[str, Split]:
        """Return its splits by name."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return found if self.labelled is None else {**found, "labelled": self.labelled}

    def paths(self) -> list[Path]:
        """Return every file of every split once."""
        return [Path(path) for path in self.whole().pictures]

    def whole(self) -> Split:
        """Return the files of every split once, without labels."""
        found = {
            name: path
            for split in self.splits().values()
            for name, path in zip(split.names, split.pictures, strict=True)
        }
        return Split(list(found.values()), None, list(found), self.train.change)


DOMAINS = ("source", "target")
