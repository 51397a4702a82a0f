"""Shards from any data set on disk: the files' own bytes, in an order that mixes the classes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.data.datamodules.base import TransferData
from tl_lightning.data.datamodules.stream import ABOUT, SPLITS
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.pretraining_overlap import pretraining_overlap
from tl_lightning.data.streaming.fetch import litdata
from tl_lightning.errors import DataError
from tl_lightning.utils.progress import advancing
from tl_lightning.utils.seeding import mix_text

__all__ = ["write_streams"]


def write_streams(data: TransferData, out: Path, chunk_bytes: int) -> list[Path]:
    """Write one stream a domain, ``out/<domain>``, and return their folders.

    A stream appears whole or not at all. The same pictures give the same chunks.

    Args:
        data: Has not been discovered yet, or has.
        out: The folder above the streams.
        chunk_bytes: About the size of a chunk.

    Raises:
        DataError: If the pictures are in memory or changed when they are read, a stream of that
            name is there already, or a file cannot be read or written.
    """
    litdata()
    data.discover()
    names = {role: domain.name for role, domain in data.found.items()}
    if len(set(names.values())) < len(names):  # two folders of the same name
        names = {role: f"{name}_{role}" for role, name in names.items()}
    folders = {role: out / name.replace(os.sep, "_") for role, name in names.items()}
    for role, domain in data.found.items():
        _check(role, domain, str(data.name))
        if folders[role].exists():
            raise DataError(
                f"{folders[role]} is there already; remove it, or type another out=/a/folder"
            )
    for role, domain in data.found.items():
        overlap = pretraining_overlap(
            [name for split in domain.splits().values() for name in split.names], data.overlap
        )
        _write_domain(domain, folders[role], chunk_bytes, overlap)
    return list(folders.values())


def _check(role: str, domain: Domain, name: str) -> None:
    if any(isinstance(split.pictures, np.ndarray) for split in domain.splits().values()):
        raise DataError(
            f"data={name} holds its pictures in memory, and shards are made of files; it is small "
            "enough to train on as it is"
        )
    if any(split.change is not None for split in domain.splits().values()):
        raise DataError(
            f"the {role} of data={name} is synthetic: its shift is drawn when a picture is read, "
            "and shards hold the files as they are; type data.target=null, or name a real target"
        )
    if domain.labelled is not None:
        raise DataError(
            f"data={name} keeps the labels of some target pictures, and a stream has no such part; "
            "type data.target.labelled_per_class=0"
        )


def _write_domain(domain: Domain, folder: Path, chunk_bytes: int, overlap: str) -> None:
    """Write a stream beside its final place, then give it its name."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(
            f"cannot write to {folder.parent}: {error.strerror}; type another out=/a/folder"
        ) from error
    try:
        parts = {name: getattr(domain, name) for name in SPLITS}
        total = sum(len(split) for split in parts.values())
        with advancing(f"writing {total:,} pictures to {folder}", total) as advance:
            digests = {
                name: _write_split(domain, split, draft / name, chunk_bytes, advance)
                for name, split in parts.items()
            }
        about = {"classes": list(domain.classes), "note": domain.note, "overlap": overlap}
        text = json.dumps({**about, "sha256": digests}, indent=1)
        (draft / ABOUT).write_text(text, encoding="utf-8")
        draft.chmod(0o755)  # a temporary folder is its owner's alone
        os.replace(draft, folder)
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}; make room, or type another "
            "out=/a/folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_split(domain: Domain, split: Split, folder: Path, chunk_bytes: int, advance: Any) -> str:
    """Write the chunks of one split; return the hash of its samples."""
    from litdata.streaming.writer import BinaryWriter

    digest = hashlib.sha256()
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=chunk_bytes)
    for place, sample in enumerate(_samples(domain, split)):
        for part in (sample["label"].encode(), sample["name"].encode(), sample["image"]):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        writer[place] = sample
        advance(1)
    writer.done()
    writer.merge()
    return digest.hexdigest()


def _samples(domain: Domain, split: Split) -> Iterator[dict[str, Any]]:
    """Yield the samples ordered by a hash of their names, so that every chunk mixes the classes."""
    labels = split.labels
    assert labels is not None
    for place in sorted(range(len(split)), key=lambda k: (mix_text(split.names[k]), k)):
        path = Path(split.pictures[place])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read picture {path}: {error.strerror}") from error
        name = split.names[place].encode(errors="backslashreplace").decode()
        yield {"image": content, "label": domain.classes[int(labels[place])], "name": name}
