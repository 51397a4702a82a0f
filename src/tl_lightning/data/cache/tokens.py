"""Cache of tokenized texts in memory-mapped files, and the dataset that reads it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tl_lightning.data.cache.checksums import checksums
from tl_lightning.errors import DataError
from tl_lightning.types import TextSpec
from tl_lightning.utils.files import DAMAGED, locked
from tl_lightning.utils.owned import draft_folder, publish, remove_owned
from tl_lightning.utils.progress import advancing

__all__ = ["PADDING", "TextDataset", "TokenCache", "padded", "texts_digest", "tokenised"]

#: Increase when the same settings yield different ids, to invalidate older caches.
FORMAT = 2
#: Files of a cache.
FILES = ("ids.bin", "ends.bin", "cut.bin", "manifest.json")
#: Padding id of texts that are shorter than the longest of their batch.
PADDING = -1
#: Number of texts that are tokenized at a time.
CHUNK = 1024


class TokenCache:
    """Memory-mapped token ids of texts.

    Args:
        folder: Contains ``manifest.json``, ``ids.bin`` (int32), ``ends.bin`` and ``cut.bin``.

    Attributes:
        ends: End offset of each text in ``ids``.
        lengths: Number of ids of each text.
        cut: Whether each text was truncated to the maximum length.

    Raises:
        DAMAGED: Any of these, if the files are incomplete or corrupt.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.folder = folder
        self.ends: NDArray[np.int64] = np.fromfile(folder / "ends.bin", dtype=np.int64)
        self.cut: NDArray[np.bool_] = np.fromfile(folder / "cut.bin", dtype=np.bool_)
        self.lengths = np.diff(self.ends, prepend=0)
        self.ids = np.memmap(folder / "ids.bin", dtype=np.int32, mode="r")
        complete = len(self.ends) == len(self.cut) == int(manifest["texts"])
        if not complete or len(self.ids) != int(self.ends[-1]):
            raise ValueError(f"{folder} is incomplete")
        if _sums(self.ids, self.ends, self.cut) != manifest["sums"]:
            raise ValueError(f"{folder} has changed since it was written")

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, place: int) -> NDArray[np.int32]:
        """Return the ids of the text at index ``place``."""
        end = int(self.ends[place])
        return self.ids[end - int(self.lengths[place]) : end]


def _sums(*arrays: NDArray[Any]) -> list[int]:
    return [each for array in arrays for each in checksums(array.view(np.uint8))]


def texts_digest(texts: Sequence[str]) -> str:
    """Return a hash of a sequence of texts.

    >>> texts_digest(["ab", "c"]) == texts_digest(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:16]


def tokenised(texts: Sequence[str], spec: TextSpec, name: str, root: Path) -> TokenCache:
    """Return the token ids of texts, from the cache if it exists.

    Args:
        texts: One text or more.
        spec: Tokenizer and maximum length.
        name: Human-readable prefix of the folder.
        root: Parent folder of the token caches.

    Raises:
        DataError: If the disk is full.
    """
    depends = [FORMAT, texts_digest(texts), spec.tokenizer.digest, spec.max_length]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]
    folder = root / f"{name.replace('/', '_')}-{key}"
    with locked(folder):
        with contextlib.suppress(*DAMAGED):
            return TokenCache(folder)
        # Left by a killed build: the lock is held, so no other build is running.
        for stale in (folder, *root.glob(f"{folder.name}.*.tmp")):
            remove_owned(stale, FILES)
        temporary = draft_folder(folder)
        try:
            _write(texts, spec, temporary)
            publish(temporary, folder, "manifest.json")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"the disk of {root} is full; free some disk space, or set cache.dir=/a/larger/disk"
            ) from error
        finally:
            remove_owned(temporary, FILES)
    return TokenCache(folder)


def _write(texts: Sequence[str], spec: TextSpec, folder: Path) -> None:
    lengths: list[int] = []
    truncated: list[bool] = []
    label = f"tokenizing {len(texts):,} texts"
    with (folder / "ids.bin").open("wb") as file, advancing(label, len(texts)) as advance:
        for start in range(0, len(texts), CHUNK):
            encoded = spec.tokenizer.encode(texts[start : start + CHUNK], spec.max_length)
            for ids, is_truncated in encoded:
                file.write(np.asarray(ids, dtype=np.int32).tobytes())
                lengths.append(len(ids))
                truncated.append(is_truncated)
            advance(len(encoded))
        file.flush()
        os.fsync(file.fileno())
    ends, cut = np.cumsum(lengths, dtype=np.int64), np.array(truncated, dtype=np.bool_)
    ends.tofile(folder / "ends.bin")
    cut.tofile(folder / "cut.bin")
    sums = _sums(np.fromfile(folder / "ids.bin", dtype=np.int32), ends, cut)
    manifest = {"format": FORMAT, "texts": len(texts), "sums": sums}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def padded(rows: Sequence[NDArray[Any]]) -> Tensor:
    """Return the ids of texts as one tensor ``(B, L)`` int64, right-padded with -1.

    >>> padded([np.array([5, 6]), np.array([7])]).tolist()
    [[5, 6], [7, -1]]
    """
    out = np.full((len(rows), max(map(len, rows))), PADDING, dtype=np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return torch.from_numpy(out)


class TextDataset(Dataset[dict[str, Any]]):
    """Dataset of tokenized texts that returns padded batches.

    Args:
        cache: Ids of all texts of the domain.
        rows: Row in the cache of every text of the split.
        labels: ``(N,)`` class indices, or None for batches without labels.
    """

    def __init__(
        self, cache: TokenCache, rows: NDArray[np.int64], labels: NDArray[np.int64] | None
    ) -> None:
        self.cache = cache
        self.rows = rows
        self.labels = None if labels is None else torch.from_numpy(labels.copy())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return one batch for the given ``(index, seed)`` pairs."""
        index = torch.tensor([key[0] for key in keys])
        inputs = padded([self.cache.row(int(self.rows[key[0]])) for key in keys])
        batch: dict[str, Any] = {"inputs": inputs, "index": index}
        if self.labels is not None:
            batch["labels"] = self.labels[index]
        return batch
