"""Pictures in litdata's chunks, by their place: one read a sample, nothing kept in memory."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.datasets import PictureDataset
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import fitted, open_bytes, shorter_side
from tl_lightning.data.streaming.fetch import ChunkFiles, fetched_text, is_remote, litdata
from tl_lightning.data.transforms.geometry import Geometry
from tl_lightning.errors import DataError, nearest
from tl_lightning.types import InputSpec

__all__ = ["KEYS", "Shards", "StreamDataset", "StreamSplit", "opened"]

#: What a sample must hold, and of which of litdata's kinds; its name is for people.
KEYS = {"image": "bytes", "label": "str"}


@dataclass(frozen=True)
class Shards:
    """The samples of one split, in the order in which they were written.

    Attributes:
        files: The chunks.
        counts: Samples of every chunk.
        config: How litdata wrote them, from index.json.
        number: The label of every class name.
        labelled: Whether labels are read at all.
        places: The samples to show, or None for all.
        digest: Says of two splits whether they are the same.
    """

    files: ChunkFiles
    counts: Sequence[int]
    config: Mapping[str, Any]
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

    def __getstate__(self) -> dict[str, Any]:
        """Leave litdata's reader out: a loader process makes its own."""
        return {key: value for key, value in vars(self).items() if key != "_format"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def find(self, place: int) -> tuple[int, int]:
        """Return a sample's chunk and its number in it."""
        place = int(place if self.places is None else self.places[place])
        chunk = int(np.searchsorted(self.ends, place, side="right"))
        return chunk, place - int(self.ends[chunk]) + self.counts[chunk]

    def require(self, places: Sequence[int]) -> None:
        """Fetch what holds these samples."""
        self.files.require([self.find(place)[0] for place in places])

    def __getitem__(self, place: int) -> tuple[str, bytes, int | None]:
        """Return where a sample stands, its encoded picture, and its label if they are read."""
        chunk, within = self.find(place)
        where = f"sample {within} of {self.files.url}/{self.files.names[chunk]}"
        with self.files.open(chunk) as file:
            # A chunk: how many samples, where each begins and the last ends, the samples.
            file.seek(4 + 4 * within)
            bounds = file.read(8)
            first, last = struct.unpack("<II", bounds) if len(bounds) == 8 else (0, 0)
            file.seek(first)
            content = file.read(last - first)
        if not content or len(content) != last - first:
            raise DataError(f"{where} is cut off; make the shards again")
        sample = self._format.deserialize(content)
        label = self._number(sample["label"], where) if self.labelled else None
        return where, sample["image"], label

    def _number(self, label: Any, where: str) -> int:
        if label not in self.number:
            raise DataError(
                f"{where} is labelled {label!r}, which is no class; "
                f"{nearest(str(label), self.number)}; make the shards again, or name all classes: "
                "data.classes=[...]"
            )
        return self.number[label]

    @cached_property
    def _format(self) -> Any:
        return _reader(self.config)


def _reader(config: Mapping[str, Any]) -> Any:
    """Return litdata's reader of single samples."""
    litdata()
    from litdata.streaming.config import ChunksConfig
    from litdata.streaming.item_loader import PyTreeLoader
    from litdata.streaming.serializers import _get_serializers

    loader = PyTreeLoader()
    with tempfile.TemporaryDirectory() as folder:  # it reads the index from a folder only
        (Path(folder) / "index.json").write_text(json.dumps({"chunks": [], "config": config}))
        ChunksConfig(folder, _get_serializers(None), None, loader)
    return loader


def opened(url: str, number: Mapping[str, int], root: Path, limit: int, digest: str) -> Shards:
    """Return the samples of one split; reads its index only.

    Args:
        url: The split's folder, or where it is fetched from.
        number: The label of every class name.
        root: Where fetched chunks are kept.
        limit: Most bytes there.
        digest: Of the samples, or empty: then it is the index's.

    Raises:
        DataError: If there is no index, or it is not of pictures with labels.
    """
    text = fetched_text(url, "index.json")
    if text is None:
        raise DataError(
            f"{url} holds no index.json: a stream has the folders train, val and test, each "
            "written by litdata; scripts/make_stream.py writes them"
        )
    try:
        index = json.loads(text)
        chunks, config = index["chunks"], index["config"]
        names = [str(chunk["filename"]) for chunk in chunks]
        sizes = [int(chunk["chunk_bytes"]) for chunk in chunks]
        counts = [int(chunk["chunk_size"]) for chunk in chunks]
        coded = {key: config[key] for key in ("compression", "encryption")}
        kinds = {} if any(coded.values()) else _kinds(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{url}/index.json is none of litdata's: {error!r}") from error
    for name in names:
        if Path(name).name != name or "\\" in name:  # fetched chunks are written under their names
            raise DataError(
                f"{url}/index.json names a chunk {name!r}, which would land outside its folder; do "
                "not trust this stream"
            )
    for key, value in coded.items():
        if value:
            raise DataError(
                f"{url} is written with {key}={value}, which single samples cannot be read from; "
                "write it without (encoded pictures hardly shrink)"
            )
    for key, kind in KEYS.items():
        if kinds.get(key) != kind:
            held = ", ".join(f"{name}: {own}" for name, own in kinds.items())
            raise DataError(
                f"the samples of {url} have no {key!r} of kind {kind} (they hold "
                f"{held or config['data_format']}); write "
                "{'image': encoded bytes, 'label': class name, 'name': any text}"
            )
    own = hashlib.sha256(json.dumps([chunks, config], sort_keys=True).encode()).hexdigest()
    if is_remote(url):
        # By content: chunks of an older stream at the same address are never taken for these.
        key = hashlib.sha256(f"{url}\n{text}".encode()).hexdigest()[:16]
        folder = root / key
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = Path(url)
    files = ChunkFiles(url, names, sizes, root, folder, limit)
    return Shards(files, counts, config, number, digest or own)


def _kinds(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the kind of every value of a sample by its key; empty if a sample is no plain dict."""
    spec = _reader(config)._config["data_spec"]
    if not isinstance(spec.context, list) or not all(c.is_leaf() for c in spec.children_specs):
        return {}
    return dict(zip(spec.context, config["data_format"], strict=True))


@dataclass(frozen=True, kw_only=True)
class StreamSplit(Split):
    """A split whose pictures, labels and names are known only by reading them."""

    shards: Shards

    @classmethod
    def of(cls, shards: Shards) -> StreamSplit:
        """Return a split with nothing listed."""
        return cls((), None, (), shards=shards)

    def __len__(self) -> int:
        return len(self.shards)

    def without_labels(self) -> StreamSplit:
        """Return the same pictures, whose labels are never read."""
        return replace(self, shards=replace(self.shards, labelled=False))

    def subset(self, keep: Sequence[int]) -> StreamSplit:
        """Return the samples at ``keep``, in that order."""
        places = np.asarray(keep, dtype=np.int64)
        own = self.shards.places
        chosen = places if own is None else own[places]
        return replace(self, shards=replace(self.shards, places=chosen))


class StreamDataset(PictureDataset):
    """The pictures of a stream; labels come with them, if the stream has any left.

    Args:
        shards: The samples.
        spec: What the backbone expects.
        geometry: Crops the pictures.
        seeded: As in :class:`PictureDataset`.
    """

    def __init__(
        self, shards: Shards, spec: InputSpec, geometry: Geometry, seeded: bool = False
    ) -> None:
        self.shards = shards
        self.spec = spec
        self.shorter = shorter_side(spec) if geometry.fixed else None
        super().__init__(StreamSplit.of(shards), self.read_one, geometry, spec.size, seeded)

    def read_one(self, place: int) -> Tensor:
        """Return one picture."""
        return self._decoded(*self.shards[place][:2])

    def fetch(self, places: Sequence[int]) -> tuple[list[Tensor], Tensor | None]:
        """Return pictures and, if the stream has any left, labels."""
        self.shards.require(places)
        samples = [self.shards[place] for place in places]
        pictures = [self._decoded(where, content) for where, content, _ in samples]
        labels = [label for _, _, label in samples if label is not None]
        return pictures, torch.tensor(labels) if self.shards.labelled else None

    def _decoded(self, where: str, content: bytes) -> Tensor:
        picture = open_bytes(content, where, self.shorter)
        return picture if self.shorter is None else fitted(picture, self.shorter, self.spec)
