"""Domains and their splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Domain", "Split", "concatenated"]

Change = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Split:
    """One split of one domain.

    Attributes:
        samples: Paths, pixels ``(N, H, W, 3)`` uint8, texts ``(N,)`` or vectors ``(N, F)``.
        labels: ``(N,)`` class indices, or None if the split is unlabelled; of other tasks than
            classification what :mod:`tl_lightning.tasks.encoding` makes of them.
        names: Stable name of each sample, relative to the root of the domain.
        change: Fixed transform of every image (synthetic shift), called as ``change(image, key)``
            with a key derived from the image's name.
        white: Value that becomes 255 in images of more than 8 bits; None: see
            :func:`.to_8_bits`.
        aux_labels: Labels of the auxiliary tasks by name, each ``(N, ...)``.
        domains: ``(N,)`` index into :attr:`Domain.domains`; None if there is only one.
        cells: ``(N, C)`` cells of the columns with the labels, as text, until they are encoded.
    """

    samples: Sequence[Path] | NDArray[np.uint8]
    labels: NDArray[Any] | None
    names: Sequence[str]
    change: Change | None = None
    aux_labels: Mapping[str, NDArray[Any]] | None = None
    white: float | None = None
    domains: NDArray[np.int64] | None = None
    cells: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def files(self) -> Sequence[Any]:
        """Paths of the samples; their names if they are in memory or in streams."""
        if isinstance(self.samples, np.ndarray) or not len(self.samples):
            return self.names
        return self.samples

    @property
    def has_labels(self) -> bool:
        """Whether the samples have class labels, possibly known only once they are read."""
        return self.labels is not None

    def without_labels(self) -> Split:
        """Return the same samples with all labels removed."""
        return replace(self, labels=None, aux_labels=None, cells=None)

    def subset(self, keep: Sequence[int]) -> Split:
        """Return the samples at ``keep``, in that order."""
        chosen = np.asarray(keep, dtype=np.int64)
        samples: Any = (
            self.samples[chosen]
            if isinstance(self.samples, np.ndarray)
            else [self.samples[i] for i in chosen]
        )
        labels = None if self.labels is None else self.labels[chosen]
        names = [self.names[i] for i in chosen]
        aux_labels = self.aux_labels and {
            name: values[chosen] for name, values in self.aux_labels.items()
        }
        domains = None if self.domains is None else self.domains[chosen]
        cells = None if self.cells is None else self.cells[chosen]
        return replace(
            self, samples=samples, labels=labels, names=names, aux_labels=aux_labels,
            domains=domains, cells=cells,
        )  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """One domain with its splits.

    Attributes:
        name: Name shown in the report.
        classes: Class names, indexed by the labels.
        train, val, test: The splits, disjoint unless the target is transductive.
        note: Note to show in the report, for instance that the shift is synthetic.
        labelled: Few-shot target samples that keep their labels, or None.
        domains: Names of the domains that it consists of, if there are several.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    note: str = ""
    labelled: Split | None = None
    domains: tuple[str, ...] = ()

    def splits(self) -> dict[str, Split]:
        """Return the splits by name, with ``labelled`` if there is one."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return found if self.labelled is None else {**found, "labelled": self.labelled}

    def map(self, change: Callable[[Split], Split]) -> Domain:
        """Return the domain with a function applied to each split."""
        changed: dict[str, Any] = {name: change(split) for name, split in self.splits().items()}
        return replace(self, **changed)

    def paths(self) -> list[Path]:
        """Return the files of all splits without duplicates."""
        return [Path(path) for path in self.whole().samples]

    def whole(self) -> Split:
        """Return the samples of all splits as one unlabelled split without duplicates."""
        found = {
            name: path
            for split in self.splits().values()
            for name, path in zip(split.names, split.samples, strict=True)
        }
        return Split(
            list(found.values()), None, list(found), self.train.change, white=self.train.white
        )


def concatenated(splits: Sequence[Split]) -> Split:
    """Return the samples of several splits as one; without labels unless all have them."""
    held = [split.samples for split in splits if isinstance(split.samples, np.ndarray)]
    images: Any = [Path(image) for split in splits for image in split.samples if not held]
    images = np.concatenate(held) if held else images
    known = [split.labels for split in splits if split.labels is not None]
    labels = np.concatenate(known) if len(known) == len(splits) else None
    names = [name for split in splits for name in split.names]
    marked = [split.domains for split in splits if split.domains is not None]
    domains = np.concatenate(marked) if len(marked) == len(splits) else None
    texts = [split.cells for split in splits if split.cells is not None]
    cells = np.concatenate(texts) if len(texts) == len(splits) else None
    return Split(
        images, labels, names, splits[0].change, white=splits[0].white, domains=domains, cells=cells
    )
