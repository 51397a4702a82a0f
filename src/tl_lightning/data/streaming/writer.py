"""Writer of shards: the encoded files of a dataset, shuffled so that row groups mix the classes."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.pretraining_overlap import pretraining_overlap
from tl_lightning.data.streaming.parquet_files import MODULUS, OWN_KEY
from tl_lightning.data.streaming.row_groups import parquet
from tl_lightning.errors import DataError
from tl_lightning.types import SPLITS
from tl_lightning.utils.owned import follow_umask
from tl_lightning.utils.progress import advancing
from tl_lightning.utils.seeding import mix_text

__all__ = ["write_streams"]

#: Number of row groups in a file: about 500 MB with the default size.
GROUPS_PER_FILE = 32

#: Encoded image, name and label.
Sample = tuple[bytes, str, int]


def write_streams(data: TransferDataModule, out: Path, group_bytes: int) -> list[Path]:
    """Write one stream per domain to ``out/<domain>`` and return their folders.

    Streams are written atomically and deterministically.

    Args:
        data: Data module of the images.
        out: Parent folder of the streams.
        group_bytes: Approximate size of a row group.

    Raises:
        DataError: If the images are in memory or synthetically shifted, a stream already exists,
            or a file cannot be read or written.
    """
    parquet()
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
        _write_domain(domain, folders[key], group_bytes, overlap)
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
    if domain.train.white is not None:
        raise DataError(
            f"the images of data={name} have more than 8 bits per channel, and streams do not "
            "store data.max_value; convert the images to 8 bits first, or train on them directly"
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


def _write_domain(domain: Domain, folder: Path, group_bytes: int, overlap: str) -> None:
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
            about = {"note": domain.note, "overlap": overlap}
            for name, split in splits.items():
                _write_split(domain, split, temporary / name, group_bytes, about, advance)
        follow_umask(temporary)
        os.replace(temporary, folder)
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}; free some disk space, or set "
            "out=/another/folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(
    domain: Domain,
    split: Split,
    folder: Path,
    group_bytes: int,
    about: Mapping[str, str],
    advance: Callable[[int], None],
) -> None:
    """Write the Parquet files of one split, with the columns of Hugging Face's image datasets."""
    library = parquet()
    schema = _schema(domain)
    folder.mkdir()
    groups = _groups(_samples(domain, split), group_bytes)
    position = 0
    for number, part in enumerate(_batched(groups, GROUPS_PER_FILE)):
        # Images do not compress, and statistics of bytes are useless.
        digest = 0
        with library.ParquetWriter(
            folder / f"part-{number:05d}.parquet",
            schema,
            compression="none",
            use_dictionary=["label"],
            write_statistics=["label"],
            write_page_checksum=True,
        ) as writer:
            for rows in part:
                writer.write_table(_table(rows, schema), row_group_size=len(rows))
                for sample in rows:
                    digest += sample_hash(position, sample, domain.classes)
                    position += 1
                advance(len(rows))
            own = json.dumps({**about, "digest": f"{digest % MODULUS:064x}"})
            writer.add_key_value_metadata({OWN_KEY: own})


def _schema(domain: Domain) -> Any:
    import pyarrow

    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(domain.classes), "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.schema([("image", image), ("label", pyarrow.int64())], metadata=metadata)


def _table(rows: list[Sample], schema: Any) -> Any:
    import pyarrow

    images = [{"bytes": content, "path": name} for content, name, _ in rows]
    return pyarrow.table({"image": images, "label": [row[2] for row in rows]}, schema=schema)


def _groups(samples: Iterator[Sample], group_bytes: int) -> Iterator[list[Sample]]:
    """Yield the samples in lists of about ``group_bytes`` bytes."""
    rows: list[Sample] = []
    size = 0
    for sample in samples:
        if rows and size + len(sample[0]) > group_bytes:
            yield rows
            rows, size = [], 0
        rows.append(sample)
        size += len(sample[0])
    if rows:
        yield rows


def _batched(groups: Iterator[list[Sample]], count: int) -> Iterator[Iterator[list[Sample]]]:
    """Yield iterators over ``count`` row groups each; each must be exhausted before the next."""
    for first in groups:
        yield itertools.chain([first], itertools.islice(groups, count - 1))


def sample_hash(position: int, sample: Sample, classes: Sequence[str]) -> int:
    """Return the hash of a sample and its position in the split.

    The sum over all samples, modulo 2^256, identifies a split independently of its files.
    """
    content, name, label = sample
    digest = hashlib.sha256(position.to_bytes(8, "big"))
    for part in (classes[label].encode(), name.encode(), content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "big")


def _samples(domain: Domain, split: Split) -> Iterator[Sample]:
    """Yield the samples in the order of a hash of their names, which mixes the classes."""
    labels = split.labels
    assert labels is not None
    for index in sorted(range(len(split)), key=lambda k: (mix_text(split.names[k]), k)):
        path = Path(split.samples[index])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read image {path}: {error.strerror}") from error
        name = split.names[index].encode(errors="backslashreplace").decode()
        yield content, name, int(labels[index])
