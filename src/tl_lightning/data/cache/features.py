"""Features of a frozen network, computed once: files that map into memory, and their loaders.

One folder a split and set of views: ``manifest.json`` says what the features depend on, each
``*.safetensors`` holds some rows of them. Picture ``i`` in view ``v`` is row ``v * N + i``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Sampler

from tl_lightning.data.cache.build_images import file_stamps
from tl_lightning.data.cache.tokens import texts_digest
from tl_lightning.data.datasets import further, tensors
from tl_lightning.data.domain import Split
from tl_lightning.data.samplers.domain import DomainSampler, EvalSampler
from tl_lightning.errors import DataError
from tl_lightning.utils.seeding import mix, mix_text

__all__ = [
    "FeatureLoader",
    "FeatureSet",
    "Features",
    "ShardWriter",
    "ViewSampler",
    "split_digest",
    "view_seed",
]

#: Raise when the same settings give other features: older ones are then left aside.
FORMAT = 1
#: Largest file, in bytes; as much waits in memory before it is written.
SHARD_BYTES = 512 << 20


class Features:
    """The stored features of one split, mapped into memory: opening reads no row.

    Args:
        folder: Holds ``manifest.json`` and the files that it names.

    Raises:
        OSError, KeyError, ValueError: If they do not make a whole set.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.folder = folder
        self.number, self.views = int(manifest["number"]), int(manifest["views"])
        try:
            self.parts = [_mapped(folder / name) for name in manifest["shards"]]
        except SafetensorError as error:
            raise ValueError(f"{folder} is not whole: {error}") from error
        self.ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        if int(self.ends[-1]) != self.number * self.views:
            raise ValueError(f"{folder} is not whole")

    @property
    def flat(self) -> bool:
        """Whether they are what the head takes, not maps that layers have still to pass."""
        return self.parts[0].dim() == 2

    def rows(self, rows: Tensor) -> Tensor:
        """Return the rows of these numbers ``(B,)``, as stored."""
        if len(self.parts) == 1:
            return self.parts[0].index_select(0, rows)
        part = torch.searchsorted(self.ends, rows, right=True)
        out = torch.empty((len(rows), *self.parts[0].shape[1:]), dtype=self.parts[0].dtype)
        for number in sorted(set(part.tolist())):
            chosen = part == number
            start = int(self.ends[number]) - len(self.parts[number])
            out[chosen] = self.parts[number].index_select(0, rows[chosen] - start)
        return out


def _mapped(file: Path) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        found: Tensor = opened.get_tensor("features")
    return found


class FeatureLoader:
    """Batches of stored features: look-ups by whole tensors, no processes, no Python a sample.

    Args:
        features: Of the whole split.
        labels: ``(N,)`` class indices, or None where there are none.
        batch_size: Samples a batch.
        sampler: Its seeds choose the view that a sample shows: seed modulo their number.
        others: Labels of further tasks by name.
    """

    #: Lightning looks for one to tell whether evaluation is shuffled.
    batch_sampler = None

    def __init__(
        self,
        features: Features,
        labels: NDArray[np.int64] | None,
        batch_size: int,
        sampler: DomainSampler | EvalSampler,
        others: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.features = features
        self.others = tensors(others)
        self.labels = None if labels is None else torch.from_numpy(labels.copy())
        self.batch_size = batch_size
        self.sampler = sampler  # Lightning tells it the epoch

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        index, extra = self.sampler.arrays()
        rows, valid = index, None
        if isinstance(self.sampler, EvalSampler):
            valid = extra > 0
        elif self.features.views > 1:
            rows = index + self.features.number * (extra % self.features.views)
        for start in range(0, len(index), self.batch_size):
            some = slice(start, start + self.batch_size)
            places = index[some]
            batch = {"inputs": self.features.rows(rows[some]), "index": places}
            if self.labels is not None:
                batch["labels"] = self.labels[places]
            if valid is not None:
                batch["index"] = torch.where(valid[some], places, -1)
            yield batch | further(self.others, places)


def view_seed(name: str, view: int) -> int:
    """Return the seed of one view of a picture: the same in every run, whatever the run's seed.

    >>> view_seed("a.jpg", 0) == view_seed("a.jpg", 0), view_seed("a.jpg", 0) == view_seed("b", 0)
    (True, False)
    """
    return mix(mix_text(name), view)


class ViewSampler(Sampler[tuple[int, int]]):
    """Yield ``(index, seed)`` of the rows that one rank computes: neighbouring ones.

    Args:
        names: Of every picture of the split.
        views: Views of each.
        rank: This process's rank.
        world: Number of ranks.
    """

    def __init__(self, *, names: Sequence[str], views: int, rank: int, world: int) -> None:
        self.names = names
        total = len(names) * views
        self.places = range(rank * total // world, (rank + 1) * total // world)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for row in self.places:
            view, index = divmod(row, len(self.names))
            yield index, view_seed(self.names[index], view)


def split_digest(split: Split) -> str:
    """Return a hash of what a split shows: names and files' sizes and times, pixels, or words."""
    digest = hashlib.sha256(json.dumps(list(split.names)).encode(errors="surrogateescape"))
    if isinstance(split.pictures, np.ndarray) and split.pictures.dtype == object:
        digest.update(texts_digest(split.pictures.tolist()).encode())
    elif isinstance(split.pictures, np.ndarray):
        digest.update(str(split.pictures.shape).encode())
        digest.update(np.ascontiguousarray(split.pictures).data)
    else:
        digest.update(file_stamps(split).tobytes())
    change = split.change and [type(split.change).__name__, sorted(vars(split.change).items())]
    digest.update(json.dumps(change, default=str).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class FeatureSet:
    """One set of features: where it lies, whether it is there yet or not.

    Args:
        root: The folder above all sets.
        name: Names the folder, for people.
        number: Pictures in the split.
        views: Stored views of each.
        depends: All that the features depend on, as plain values.
    """

    root: Path
    name: str
    number: int
    views: int
    depends: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Its place, a function of what it depends on."""
        text = json.dumps(
            [FORMAT, self.number, self.views, self.depends], sort_keys=True, default=str
        )
        return self.root / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def found(self) -> Features | None:
        """Return the features if they are there and whole."""
        with contextlib.suppress(OSError, KeyError, ValueError):
            return Features(self.folder)
        return None

    def begin(self) -> Path:
        """Return an empty folder to write to; only under the lock of :attr:`folder`."""
        folder = self.folder
        # What a killed build has left: the lock says that none runs now.
        for left in (folder, *folder.parent.glob(f"{folder.name}.*.tmp")):
            shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))

    def finish(self, draft: Path) -> None:
        """Give what every rank has written its manifest and its name."""
        manifest = {
            "format": FORMAT,
            "number": self.number,
            "views": self.views,
            "shards": sorted(file.name for file in draft.glob("*.safetensors")),
            **self.depends,
        }
        with (draft / "manifest.json").open("w") as file:
            json.dump(manifest, file, indent=2, default=str)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.folder)


class ShardWriter:
    """Writes one rank's rows in their order, a file at a time.

    Args:
        folder: Where to; files of several ranks stand in the order of the ranks.
        rank: This process's rank.
        limit: Bytes of a file.
    """

    def __init__(self, folder: Path, rank: int, limit: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.rank = rank
        self.limit = limit
        self.kept: list[Tensor] = []
        self.bytes = self.files = 0

    def add(self, features: Tensor) -> None:
        """Take the next rows."""
        rows = features.detach().cpu().contiguous()
        self.kept.append(rows)
        self.bytes += rows.nbytes
        if self.bytes >= self.limit:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            DataError: If the disk is full.
        """
        if not self.kept:
            return
        file = self.folder / f"{self.rank:04d}-{self.files:05d}.safetensors"
        try:
            save_file({"features": torch.cat(self.kept)}, file)
            with file.open("rb") as written:
                os.fsync(written.fileno())
        except (OSError, SafetensorError) as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if not full and "No space left" not in str(error):
                raise
            raise DataError(
                f"the disk of {self.folder.parent} is full; make room, or type "
                "cache.dir=/a/larger/disk or cache.features=off"
            ) from error
        self.kept, self.bytes, self.files = [], 0, self.files + 1
