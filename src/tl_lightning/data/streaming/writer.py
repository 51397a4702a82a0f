"""Writer of shards: the encoded files of a dataset, shuffled so that chunks mix the classes."""

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

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.stream import ABOUT
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.pretraining_overlap import pretraining_overlap
from tl_lightning.data.streaming.fetch import litdata
from tl_lightning.errors import DataError
from tl_lightning.types import SPLITS
from tl_lightning.utils.progress import advancing
from tl_lightning.utils.seeding import mix_text

__all__ = ["write_streams"]


def write_streams(data: TransferDataModule, out: Path, chunk_bytes: int) -> list[Path]:
    """Write one stream per domain to ``out/<domain>`` and return their folders.

    Streams are written atomically and deterministically.

    Args:
        data: Data module of the images.
        out: Parent folder of the streams.
        chunk_bytes: Approximate size of a chunk.

    Raises:
        DataError: If the images are in memory or synthetically shifted, a stream already exists,
            or a file cannot be read or written.
    """
    litdata()
    data.discover()
    names = {key: domain.name for key, domain in data.found.items()}
    if len(set(names.values())) < len(names):  # both domains have the same name
        names = {key: f"{name}_{key}" for key, name in names.items()}
    folders = {key: out / name.replace(os.sep, "_") for key, name in names.items()}
    for key, domain in data.found.items():
        _check(key, domain, str(data.name))
        if folders[key].exists():
            raise DataError(f"{folders[key]} already exists; remove it, or set out=/another/folder")
    for key, domain in data.found.items():
        overlap = pretraining_overlap(
            [name for split in domain.splits().values() for name in split.names], data.overlap
        )
        _write_domain(domain, folders[key], chunk_bytes, overlap)
    return list(folders.values())


def _check(key: str, domain: Domain, name: str) -> None:
    if any(isinstance(split.samples, np.ndarray) for split in domain.splits().values()):
        raise DataError(
            f"data={name} keeps its images in memory, but shards are written from files; train on "
            "it directly"
        )
    if any(split.change is not None for split in domain.splits().values()):
        raise DataError(
            f"the {key} of data={name} is synthetic: its shift is applied when an image is read, "
            "but shards contain the original files; set data.target=null, or use a real target"
        )
    if any(split.labels is None for split in domain.splits().values()):
        raise DataError(
            f"the {key} of data={name} has images without labels, which are not supported in "
            "streams; set data.target=null, or train on it directly"
        )
    if domain.labelled is not None:
        raise DataError(
            f"data={name} has few-shot target samples, which are not supported in streams; set "
            "data.target.labelled_per_class=0"
        )


def _write_domain(domain: Domain, folder: Path, chunk_bytes: int, overlap: str) -> None:
    """Write a stream to a temporary folder and rename it into place."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(
            f"cannot write to {folder.parent}: {error.strerror}; set out=/another/folder"
        ) from error
    try:
        splits = {name: getattr(domain, name) for name in SPLITS}
        total = sum(len(split) for split in splits.values())
        with advancing(f"writing {total:,} images to {folder}", total) as advance:
            digests = {
                name: _write_split(domain, split, temporary / name, chunk_bytes, advance)
                for name, split in splits.items()
            }
        about = {"classes": list(domain.classes), "note": domain.note, "overlap": overlap}
        text = json.dumps({**about, "sha256": digests}, indent=1)
        (temporary / ABOUT).write_text(text, encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp folders are only accessible to their owner
        os.replace(temporary, folder)
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}; free some disk space, or set "
            "out=/another/folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(domain: Domain, split: Split, folder: Path, chunk_bytes: int, advance: Any) -> str:
    """Write the chunks of one split and return the hash of its samples."""
    from litdata.streaming.writer import BinaryWriter

    digest = hashlib.sha256()
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=chunk_bytes)
    for index, sample in enumerate(_samples(domain, split)):
        for part in (sample["label"].encode(), sample["name"].encode(), sample["image"]):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        writer[index] = sample
        advance(1)
    writer.done()
    writer.merge()
    return digest.hexdigest()


def _samples(domain: Domain, split: Split) -> Iterator[dict[str, Any]]:
    """Yield the samples in the order of a hash of their names, so that chunks mix the classes."""
    labels = split.labels
    assert labels is not None
    for index in sorted(range(len(split)), key=lambda k: (mix_text(split.names[k]), k)):
        path = Path(split.samples[index])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read image {path}: {error.strerror}") from error
        name = split.names[index].encode(errors="backslashreplace").decode()
        yield {"image": content, "label": domain.classes[int(labels[index])], "name": name}
