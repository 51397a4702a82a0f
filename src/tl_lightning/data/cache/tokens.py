"""Texts tokenised once: two files that map into memory, found by what they were made of."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tl_lightning.errors import DataError
from tl_lightning.types import TextSpec
from tl_lightning.utils.files import locked
from tl_lightning.utils.progress import advancing

__all__ = ["PADDING", "TextDataset", "TokenCache", "padded", "texts_digest", "tokenised"]

#: Raise when the same settings give other ids: older ones are then left aside.
FORMAT = 1
#: What stands behind a text that is shorter than the longest of its batch.
PADDING = -1
#: Texts that are tokenised at a time.
CHUNK = 1024


class TokenCache:
    """The token ids of some texts, mapped into memory: opening reads no text.

    Args:
        folder: Holds ``manifest.json``, ``ids.bin`` (int32), ``ends.npy`` and ``cut.npy``.

    Attributes:
        ends: Where each text's ids end.
        lengths: Number of each text's ids.
        cut: Whether the text was longer than the limit.

    Raises:
        OSError, KeyError, ValueError: If they do not make a whole set.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.folder = folder
        self.ends: NDArray[np.int64] = np.load(folder / "ends.npy")
        self.cut: NDArray[np.bool_] = np.load(folder / "cut.npy")
        self.lengths = np.diff(self.ends, prepend=0)
        self.ids = np.memmap(folder / "ids.bin", dtype=np.int32, mode="r")
        whole = len(self.ends) == len(self.cut) == int(manifest["texts"])
        if not whole or len(self.ids) != int(self.ends[-1]):
            raise ValueError(f"{folder} is not whole")

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, place: int) -> NDArray[np.int32]:
        """Return one text's ids."""
        end = int(self.ends[place])
        return self.ids[end - int(self.lengths[place]) : end]


def texts_digest(texts: Sequence[str]) -> str:
    """Return a hash of texts in their order.

    >>> texts_digest(["ab", "c"]) == texts_digest(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    for text in texts:
        written = text.encode(errors="surrogatepass")
        digest.update(len(written).to_bytes(8, "little"))
        digest.update(written)
    return digest.hexdigest()[:16]


def tokenised(texts: Sequence[str], spec: TextSpec, name: str, root: Path) -> TokenCache:
    """Return the ids of texts, from the disk if they are there.

    Args:
        texts: At least one.
        spec: Tokenizer and greatest length.
        name: Names the folder, for people.
        root: The folder above it.

    Raises:
        DataError: If the disk is full.
    """
    depends = [FORMAT, texts_digest(texts), spec.tokenizer.digest, spec.max_length]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]
    folder = root / f"{name.replace('/', '_')}-{key}"
    with locked(folder):
        with contextlib.suppress(OSError, KeyError, ValueError):
            return TokenCache(folder)
        # What a killed build has left: the lock says that none runs now.
        for left in (folder, *root.glob(f"{folder.name}.*.tmp")):
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=root))
        try:
            _write(texts, spec, draft)
            os.replace(draft, folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"the disk of {root} is full; make room, or type cache.dir=/a/larger/disk"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return TokenCache(folder)


def _write(texts: Sequence[str], spec: TextSpec, draft: Path) -> None:
    lengths: list[int] = []
    cut: list[bool] = []
    words = f"tokens of {len(texts):,} texts"
    with (draft / "ids.bin").open("wb") as file, advancing(words, len(texts)) as advance:
        for start in range(0, len(texts), CHUNK):
            found = spec.tokenizer.encode(texts[start : start + CHUNK], spec.max_length)
            for ids, longer in found:
                file.write(np.asarray(ids, dtype=np.int32).tobytes())
                lengths.append(len(ids))
                cut.append(longer)
            advance(len(found))
        file.flush()
        os.fsync(file.fileno())
    np.save(draft / "ends.npy", np.cumsum(lengths, dtype=np.int64))
    np.save(draft / "cut.npy", np.array(cut, dtype=np.bool_))
    (draft / "manifest.json").write_text(json.dumps({"format": FORMAT, "texts": len(texts)}))


def padded(rows: Sequence[NDArray[Any]]) -> Tensor:
    """Return the ids of some texts as one tensor ``(B, L)`` int64, padded on the right by -1.

    >>> padded([np.array([5, 6]), np.array([7])]).tolist()
    [[5, 6], [7, -1]]
    """
    out = np.full((len(rows), max(map(len, rows))), PADDING, dtype=np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return torch.from_numpy(out)


class TextDataset(Dataset[dict[str, Any]]):
    """From places in a split to one padded batch.

    Args:
        cache: Holds the ids of all of the domain's texts.
        rows: The row of every text of the split.
        labels: ``(N,)`` class indices, or None where there are none.
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
