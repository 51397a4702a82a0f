"""Random access to images in litdata chunks, with one read per sample."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.datasets import ImageDataset
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import fitted, open_bytes, shorter_side
from tl_lightning.data.streaming.fetch import ChunkFiles, fetched_text, is_remote, litdata
from tl_lightning.data.transforms.geometry import Geometry
from tl_lightning.errors import DataError, nearest
from tl_lightning.types import InputSpec

__all__ = ["ARROW_MARK", "KEYS", "Shards", "StreamDataset", "StreamSplit", "opened"]

#: Required keys of a sample and their litdata types.
KEYS = {"image": "bytes", "label": "str"}
#: Last bytes of a chunk that ends in an Arrow table.
ARROW_MARK = b"LDARW01\0"


@dataclass(frozen=True)
class Shards:
    """Samples of one split, in the order in which they were written.

    Attributes:
        files: The chunks.
        counts: Number of samples of each chunk.
        layout: litdata's ``config`` from index.json.
        number: Label of each class name.
        digest: Hash of the samples.
        labelled: Whether labels are read.
        places: Indices of the samples to use, or None for all.
        ends: Cumulative number of samples after each chunk.
    """

    files: ChunkFiles
    counts: Sequence[int]
    layout: Mapping[str, Any]
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
        """Leave out litdata's reader; each worker creates its own."""
        return {key: value for key, value in vars(self).items() if key != "_format"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def find(self, place: int) -> tuple[int, int]:
        """Return the chunk of a sample and its index within the chunk."""
        place = int(place if self.places is None else self.places[place])
        chunk = int(np.searchsorted(self.ends, place, side="right"))
        return chunk, place - int(self.ends[chunk]) + self.counts[chunk]

    def require(self, places: Sequence[int]) -> None:
        """Fetch the chunks that contain these samples."""
        self.files.require([self.find(place)[0] for place in places])

    def __getitem__(self, place: int) -> tuple[str, bytes, int | None]:
        """Return a sample's location, its encoded image, and its label (None if not read)."""
        chunk, within = self.find(place)
        where = f"sample {within} of {self.files.url}/{self.files.names[chunk]}"
        with self.files.open(chunk) as file:
            # Chunk layout: number of samples, start offset of each and end of the last, samples.
            file.seek(4 + 4 * within)
            bounds = file.read(8)
            start, end = struct.unpack("<II", bounds) if len(bounds) == 8 else (0, 0)
            file.seek(start)
            content = file.read(end - start)
            whole = content and len(content) == end - start
            sample = self._format.deserialize(content) if whole else _arrow_row(file, within, where)
        if sample is None:
            raise DataError(f"{where} is truncated; write the shards again")
        label = self._number(sample["label"], where) if self.labelled else None
        return where, sample["image"], label

    def _number(self, label: Any, where: str) -> int:
        if label not in self.number:
            raise DataError(
                f"{where} is labelled {label!r}, which is not a class; "
                f"{nearest(str(label), self.number)}; write the shards again, or set "
                "data.classes=[...] to all class names"
            )
        return self.number[label]

    @cached_property
    def _format(self) -> Any:
        return _reader(self.layout)


def _arrow_row(file: BinaryIO, row: int, where: str) -> dict[str, Any] | None:
    """Return a row of the Arrow table at the end of a chunk, or None if the table is incomplete.

    litdata writes samples of bytes and strings in this form if pyarrow is installed.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 12))
    tail = file.read(12)
    start = size - 12 - int.from_bytes(tail[:4], "little")
    if tail[4:] != ARROW_MARK or start < 0:
        return None
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"{where} is a row of an Arrow table, which requires the package pyarrow; run "
            "pip install 'tl_lightning[parquet]'"
        ) from error
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last reference
    try:
        reader = pyarrow.ipc.open_file(pyarrow.py_buffer(mapped).slice(start, size - 12 - start))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            if row < batch.num_rows:
                found: dict[str, Any] = batch.slice(row, 1).to_pylist()[0]
                return found
            row -= batch.num_rows
    except pyarrow.ArrowException:
        pass
    return None


def _reader(layout: Mapping[str, Any]) -> Any:
    """Return litdata's deserializer of single samples."""
    litdata()
    from litdata.streaming.config import ChunksConfig
    from litdata.streaming.item_loader import PyTreeLoader
    from litdata.streaming.serializers import _get_serializers

    loader = PyTreeLoader()
    with tempfile.TemporaryDirectory() as folder:  # ChunksConfig only reads indices from folders
        (Path(folder) / "index.json").write_text(json.dumps({"chunks": [], "config": layout}))
        ChunksConfig(folder, _get_serializers(None), None, loader)
    return loader


def opened(url: str, number: Mapping[str, int], root: Path, limit: int, digest: str) -> Shards:
    """Open one split; reads only its index.

    Args:
        url: Folder or address of the split.
        number: Label of each class name.
        root: Cache folder for fetched chunks.
        limit: Maximum size of the cache in bytes.
        digest: Hash of the samples; if empty, the hash of the index is used.

    Raises:
        DataError: If the index is missing or invalid, or the samples are not labelled images.
    """
    text = fetched_text(url, "index.json")
    if text is None:
        raise DataError(
            f"{url} contains no index.json; a stream has the folders train, val and test, each "
            "written by litdata; run scripts/write_shards.py to write them"
        )
    try:
        index = json.loads(text)
        chunks, layout = index["chunks"], index["config"]
        names = [str(chunk["filename"]) for chunk in chunks]
        sizes = [int(chunk["chunk_bytes"]) for chunk in chunks]
        counts = [int(chunk["chunk_size"]) for chunk in chunks]
        encodings = {key: layout[key] for key in ("compression", "encryption")}
        kinds = {} if any(encodings.values()) else _kinds(layout)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{url}/index.json is not a valid litdata index: {error!r}") from error
    for name in names:
        if (
            Path(name).name != name or name == ".." or "\\" in name
        ):  # fetched chunks are written under this name
            raise DataError(
                f"{url}/index.json names a chunk {name!r}, which would be written outside its "
                "folder; do not trust this stream"
            )
    for key, value in encodings.items():
        if value:
            raise DataError(
                f"{url} was written with {key}={value}, which does not allow reading single "
                "samples; write it without (encoded images hardly compress)"
            )
    for key, kind in KEYS.items():
        if kinds.get(key) != kind:
            contents = ", ".join(f"{name}: {other}" for name, other in kinds.items())
            raise DataError(
                f"the samples of {url} have no {key!r} of type {kind} (they contain "
                f"{contents or layout['data_format']}); write them as "
                "{'image': encoded bytes, 'label': class name, 'name': any text}"
            )
    index_digest = hashlib.sha256(json.dumps([chunks, layout], sort_keys=True).encode()).hexdigest()
    if is_remote(url):
        # The key includes the index, so that chunks of an older stream at this address are ignored.
        key = hashlib.sha256(f"{url}\n{text}".encode()).hexdigest()[:16]
        folder = root / key
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = Path(url)
    files = ChunkFiles(url, names, sizes, root, folder, limit)
    return Shards(files, counts, layout, number, digest or index_digest)


def _kinds(layout: Mapping[str, Any]) -> dict[str, str]:
    """Return the type of each value of a sample by key; empty if samples are not flat dicts."""
    spec = _reader(layout)._config["data_spec"]
    if not isinstance(spec.context, list) or not all(c.is_leaf() for c in spec.children_specs):
        return {}
    return dict(zip(spec.context, layout["data_format"], strict=True))


@dataclass(frozen=True, kw_only=True)
class StreamSplit(Split):
    """A split whose images, labels and names are only known once they are read."""

    shards: Shards

    @classmethod
    def of(cls, shards: Shards) -> StreamSplit:
        """Return the split of ``shards``, without listing its samples."""
        return cls((), None, (), shards=shards)

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def has_labels(self) -> bool:
        """Whether the labels are read."""
        return self.shards.labelled

    def without_labels(self) -> StreamSplit:
        """Return a split of the same images whose labels are never read."""
        return replace(self, shards=replace(self.shards, labelled=False))

    def subset(self, keep: Sequence[int]) -> StreamSplit:
        """Return the samples at ``keep``, in that order."""
        places = np.asarray(keep, dtype=np.int64)
        current = self.shards.places
        chosen = places if current is None else current[places]
        return replace(self, shards=replace(self.shards, places=chosen))


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

    def read_one(self, place: int) -> Tensor:
        """Return one image."""
        return self._decode(*self.shards[place][:2])

    def fetch(self, places: Sequence[int]) -> tuple[list[Tensor], Tensor | None]:
        """Return images and, if the shards are ``labelled``, labels."""
        self.shards.require(places)
        samples = [self.shards[place] for place in places]
        images = [self._decode(where, content) for where, content, _ in samples]
        labels = [label for _, _, label in samples if label is not None]
        return images, torch.tensor(labels) if self.shards.labelled else None

    def _decode(self, where: str, content: bytes) -> Tensor:
        image = open_bytes(content, where, self.shorter)
        return image if self.shorter is None else fitted(image, self.shorter, self.spec)
