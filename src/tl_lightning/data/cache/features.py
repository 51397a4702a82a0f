"""Cached features of a frozen backbone in memory-mapped files, and their data loader.

There is one folder per split and set of views: ``manifest.json`` records what the features depend
on, the ``*.safetensors`` files contain the rows. View ``v`` of image ``i`` is row ``v * N + i``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
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

from tl_lightning.data.cache.checksums import BLOCK, Checked, checksums
from tl_lightning.data.cache.contents import split_contents
from tl_lightning.data.cache.tokens import texts_digest
from tl_lightning.data.datasets import aux_batch, tensors
from tl_lightning.data.domain import Split
from tl_lightning.data.samplers.domain import DomainSampler, EvalSampler
from tl_lightning.errors import DataError
from tl_lightning.utils.files import DAMAGED
from tl_lightning.utils.owned import draft_folder, publish, remove_owned
from tl_lightning.utils.seeding import mix, mix_text

__all__ = [
    "FILES",
    "FeatureLoader",
    "FeatureSet",
    "Features",
    "ShardWriter",
    "ViewSampler",
    "split_digest",
    "view_seed",
]

#: Increase when the same settings yield different features, to invalidate older ones.
FORMAT = 3
#: Files of a set.
FILES = ("manifest.json", "*.safetensors")
#: Maximum size of a file in bytes; this much is buffered in memory before it is written.
SHARD_BYTES = 512 << 20


class Features:
    """Memory-mapped features of one split; opening them reads no rows.

    Args:
        folder: Contains ``manifest.json`` and the files listed in it.

    Raises:
        DAMAGED: Any of these, if the files are incomplete or corrupt.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.folder = folder
        self.number, self.views = int(manifest["number"]), int(manifest["views"])
        try:
            self.parts = [_mapped(folder / name) for name in manifest["shards"]]
        except SafetensorError as error:
            raise ValueError(f"{folder} is incomplete: {error}") from error
        sums = [manifest["sums"][name] for name in manifest["shards"]]
        self.groups = [_group(part) for part in self.parts]
        self.checked = [
            Checked(_bytes(part), each, group * _row_bytes(part))
            for part, each, group in zip(self.parts, sums, self.groups, strict=True)
        ]
        self.ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        if int(self.ends[-1]) != self.number * self.views:
            raise ValueError(f"{folder} is incomplete")

    @property
    def flat(self) -> bool:
        """Whether they are inputs of the head, rather than of the remaining layer groups."""
        return self.parts[0].dim() == 2

    def rows(self, rows: Tensor) -> Tensor:
        """Return the rows with the indices ``(B,)``, as stored.

        Raises:
            DataError: If the bytes have changed since they were written; the set is removed.
        """
        if len(self.parts) == 1:
            return self._selected(0, rows)
        part = torch.searchsorted(self.ends, rows, right=True)
        out = torch.empty((len(rows), *self.parts[0].shape[1:]), dtype=self.parts[0].dtype)
        for number in sorted(set(part.tolist())):
            chosen = part == number
            start = int(self.ends[number]) - len(self.parts[number])
            out[chosen] = self._selected(number, rows[chosen] - start)
        return out

    def _selected(self, number: int, rows: Tensor) -> Tensor:
        if not self.checked[number].intact((rows // self.groups[number]).tolist()):
            remove_owned(self.folder, FILES)
            raise DataError(
                f"the features in {self.folder} have changed since they were written: the disk or "
                "the memory is defective; they were removed and are computed again by the next "
                "run, set resume=auto to continue this one"
            )
        return self.parts[number].index_select(0, rows)


def _mapped(file: Path) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        features: Tensor = opened.get_tensor("features")
    return features


def _row_bytes(part: Tensor) -> int:
    return max(1, part.element_size() * part[0].numel()) if len(part) else 1


def _group(part: Tensor) -> int:
    """Return the number of rows with one checksum."""
    return max(1, BLOCK // _row_bytes(part))


def _bytes(part: Tensor) -> NDArray[np.uint8]:
    return part.reshape(-1).view(torch.uint8).numpy()


def _sums(part: Tensor) -> list[int]:
    return checksums(_bytes(part), _group(part) * _row_bytes(part))


class FeatureLoader:
    """Loader of cached features by tensor indexing, without workers or per-sample Python code.

    Args:
        features: Features of the whole split.
        labels: ``(N,)`` class indices, or None for batches without labels.
        batch_size: Samples per batch.
        sampler: Sampler; a sample's seed modulo the number of views selects its view.
        aux_labels: Labels of auxiliary tasks by name.
        domains: ``(N,)`` index of each sample's domain, in evaluation; None if there is only one.
    """

    #: Lightning inspects this attribute to detect shuffling in evaluation.
    batch_sampler = None

    def __init__(
        self,
        features: Features,
        labels: NDArray[np.int64] | None,
        batch_size: int,
        sampler: DomainSampler | EvalSampler,
        aux_labels: Mapping[str, NDArray[Any]] | None = None,
        domains: NDArray[np.int64] | None = None,
    ) -> None:
        self.features = features
        self.domains = None if domains is None else torch.from_numpy(domains.copy())
        self.aux_labels = tensors(aux_labels)
        self.labels = None if labels is None else torch.from_numpy(labels.copy())
        self.batch_size = batch_size
        self.sampler = sampler  # Lightning calls its set_epoch()

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
            window = slice(start, start + self.batch_size)
            indices = index[window]
            batch = {"inputs": self.features.rows(rows[window]), "index": indices}
            if self.labels is not None:
                batch["labels"] = self.labels[indices]
            if self.domains is not None:
                batch["domain"] = self.domains[indices]
            if valid is not None:
                batch["index"] = torch.where(valid[window], indices, -1)
            yield batch | aux_batch(self.aux_labels, indices)


def view_seed(name: str, view: int) -> int:
    """Return the augmentation seed of one view of an image, independent of the run's seed.

    >>> view_seed("a.jpg", 0) == view_seed("a.jpg", 0), view_seed("a.jpg", 0) == view_seed("b", 0)
    (True, False)
    """
    return mix(mix_text(name), view)


class ViewSampler(Sampler[tuple[int, int]]):
    """Yield ``(index, seed)`` of the contiguous rows that one rank computes.

    Args:
        names: Names of all images of the split.
        views: Number of views per image.
        rank: Rank of this process.
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
    """Return a hash of a split: names, and bytes of the files, pixels or texts."""
    digest = hashlib.sha256(json.dumps(list(split.names)).encode(errors="surrogateescape"))
    if isinstance(split.samples, np.ndarray) and split.samples.dtype == object:
        digest.update(texts_digest(split.samples.tolist()).encode())
    elif isinstance(split.samples, np.ndarray):
        digest.update(str(split.samples.shape).encode())
        digest.update(np.ascontiguousarray(split.samples).data)
    else:
        digest.update(split_contents(split).tobytes())
    change = split.change and [type(split.change).__name__, sorted(vars(split.change).items())]
    digest.update(json.dumps([change, split.white], default=str).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class FeatureSet:
    """Location of one set of cached features, which may not exist yet.

    Args:
        root: Parent folder of all sets.
        name: Human-readable prefix of the folder.
        number: Number of images in the split.
        views: Number of stored views per image.
        depends: Everything the features depend on, as JSON-serializable values.
    """

    root: Path
    name: str
    number: int
    views: int
    depends: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the set, determined by what it depends on."""
        text = json.dumps(
            [FORMAT, self.number, self.views, self.depends], sort_keys=True, default=str
        )
        return self.root / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def found(self) -> Features | None:
        """Return the features if they exist and are complete, else None."""
        with contextlib.suppress(*DAMAGED):
            return Features(self.folder)
        return None

    def begin(self) -> Path:
        """Return an empty temporary folder; the caller must hold the lock of :attr:`folder`."""
        folder = self.folder
        # Left by a killed build: the lock is held, so no other build is running.
        for stale in (folder, *folder.parent.glob(f"{folder.name}.*.tmp")):
            remove_owned(stale, FILES)
        return draft_folder(folder)

    def finish(self, temporary: Path) -> None:
        """Write the manifest and rename the folder into place, once every rank has written."""
        shards = sorted(temporary.glob("*.safetensors"))
        manifest = {
            "format": FORMAT,
            "number": self.number,
            "views": self.views,
            "shards": [file.name for file in shards],
            "sums": {file.name: _sums(_mapped(file)) for file in shards},
            **self.depends,
        }
        with (temporary / "manifest.json").open("w") as file:
            json.dump(manifest, file, indent=2, default=str)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, self.folder, "manifest.json")


class ShardWriter:
    """Writer of one rank's rows, in order, split into files of limited size.

    Args:
        folder: Output folder; file names sort by rank.
        rank: Rank of this process.
        limit: Maximum size of a file in bytes.
    """

    def __init__(self, folder: Path, rank: int, limit: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.rank = rank
        self.limit = limit
        self.kept: list[Tensor] = []
        self.bytes = self.files = 0

    def add(self, features: Tensor) -> None:
        """Append rows to the buffer, and write it once it is full."""
        rows = features.detach().cpu().contiguous()
        self.kept.append(rows)
        self.bytes += rows.nbytes
        if self.bytes >= self.limit:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows.

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
                f"the disk of {self.folder.parent} is full; free some disk space, or set "
                "cache.dir=/a/larger/disk or cache.features=off"
            ) from error
        self.kept, self.bytes, self.files = [], 0, self.files + 1
