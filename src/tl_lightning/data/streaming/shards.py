"""Random access to the images of Parquet files, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.datasets import ImageDataset
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import fitted, open_bytes, shorter_side
from tl_lightning.data.streaming.row_groups import (
    RowGroups,
    is_remote,
)
from tl_lightning.data.transforms.geometry import Geometry
from tl_lightning.errors import DataError, nearest
from tl_lightning.types import InputSpec

__all__ = ["Shards", "StreamDataset", "StreamSplit"]


@dataclass(frozen=True)
class Shards:
    """Samples of one split, in the order in which they were written.

    Attributes:
        source: The row groups.
        nested: Whether the image column is a struct with the fields ``bytes`` and ``path``.
        names: Class name of each integer label in the files; None if labels are strings.
        number: Label of each class name.
        digest: Hash of the samples.
        labelled: Whether labels are read.
        places: Indices of the samples to use, or None for all.
        ends: Cumulative number of samples after each row group.
    """

    source: RowGroups
    nested: bool
    names: Sequence[str] | None
    number: Mapping[str, int]
    digest: str
    labelled: bool = True
    places: NDArray[np.int64] | None = None
    ends: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", np.cumsum(np.asarray(self.counts, dtype=np.int64)))

    def __len__(self) -> int:
        if self.places is not None:
            return len(self.places)
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def counts(self) -> list[int]:
        """Return the number of samples of each row group."""
        return [group.rows for group in self.source.groups]

    def find(self, place: int) -> tuple[int, int]:
        """Return the row group of a sample and its index within the row group."""
        place = int(place if self.places is None else self.places[place])
        group = int(np.searchsorted(self.ends, place, side="right"))
        return group, place - int(self.ends[group]) + self.source.groups[group].rows

    def location(self, place: int) -> str:
        """Return the location of a sample, without reading it."""
        group, row = self.find(place)
        return f"row {row} of {self.source.groups[group].where}"

    def __iter__(self) -> Iterator[tuple[bytes, int | None]]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> tuple[bytes, int | None]:
        """Return a sample's encoded image and its label (None if labels are not read)."""
        group, row = self.find(place)
        table = self.source.table(group)
        image = table.column("image").chunk(0)
        content = (image.field("bytes") if self.nested else image)[row].as_py()
        if not content:
            raise DataError(
                f"{self.location(place)} contains no image; write the shards again (columns "
                "that only name a file are not supported)"
            )
        if not self.labelled:
            return content, None
        return content, self._number(table.column("label")[row].as_py(), place)

    def _number(self, label: Any, place: int) -> int:
        if self.names is not None and isinstance(label, int) and 0 <= label < len(self.names):
            label = self.names[label]
        if label not in self.number:
            raise DataError(
                f"{self.location(place)} is labelled {label!r}, which is not a class; "
                f"{nearest(str(label), self.number)}; write the shards again, or set "
                "data.classes=[...] to all class names"
            )
        return self.number[label]

    def without_labels(self) -> Shards:
        """Return the same images; the label column is not read from the files."""
        if not self.labelled:
            return self
        old = self.source
        source = RowGroups(old.url, old.groups, old.columns[:1], old.window, old.advice)
        return replace(self, source=source, labelled=False)


class Locations(Sequence[str]):
    """Locations of the samples of a split, which serve as their names in messages.

    Args:
        shards: The samples.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, place: Any) -> Any:
        return self.shards.location(place)


@dataclass(frozen=True, kw_only=True)
class StreamSplit(Split):
    """A split whose images and labels are only known once they are read."""

    shards: Shards

    @classmethod
    def of(cls, shards: Shards) -> StreamSplit:
        """Return the split of ``shards``, without listing its samples."""
        return cls((), None, Locations(shards), shards=shards)

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def has_labels(self) -> bool:
        """Whether the labels are read."""
        return self.shards.labelled

    def without_labels(self) -> StreamSplit:
        """Return a split of the same images whose labels are never read."""
        return self.of(self.shards.without_labels())

    def subset(self, keep: Sequence[int]) -> StreamSplit:
        """Return the samples at ``keep``, in that order."""
        places = np.asarray(keep, dtype=np.int64)
        current = self.shards.places
        chosen = places if current is None else current[places]
        return self.of(replace(self.shards, places=chosen))


class StreamDataset(ImageDataset):
    """Dataset of the images of a stream, with labels if the shards are ``labelled``.

    Args:
        shards: The samples.
        spec: Input specification of the backbone.
        geometry: Cropping and resizing.
        seeded: As in :class:`ImageDataset`.
    """

    def __init__(
        self, shards: Shards, spec: InputSpec, geometry: Geometry, seeded: bool = False
    ) -> None:
        self.shards = shards
        self.spec = spec
        self.shorter = shorter_side(spec) if geometry.fixed else None
        super().__init__(StreamSplit.of(shards), self.read_one, geometry, spec.size, seeded)

    @property
    def remote(self) -> bool:
        """Whether the shards are at an address."""
        return is_remote(self.shards.source.url)

    def read_one(self, place: int) -> Tensor:
        """Return one image."""
        return self._decode(place, self.shards[place][0])

    def fetch(self, places: Sequence[int]) -> tuple[list[Tensor], Tensor | None]:
        """Return images and, if the shards are ``labelled``, labels."""
        samples = [self.shards[place] for place in places]
        images = [
            self._decode(place, content)
            for place, (content, _) in zip(places, samples, strict=True)
        ]
        labels = [label for _, label in samples if label is not None]
        return images, torch.tensor(labels) if self.shards.labelled else None

    def _decode(self, place: int, content: bytes) -> Tensor:
        image = open_bytes(content, self.shards.location(place), self.shorter)
        return image if self.shorter is None else fitted(image, self.shorter, self.spec)
