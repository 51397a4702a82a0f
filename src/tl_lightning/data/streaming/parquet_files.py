"""Metadata of the Parquet files of a stream."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tl_lightning.data.streaming.row_groups import (
    RowGroup,
    RowGroups,
    filesystem,
    is_remote,
    parquet,
    reason,
)
from tl_lightning.data.streaming.shards import Shards
from tl_lightning.errors import DataError
from tl_lightning.utils.files import locked
from tl_lightning.utils.progress import advancing

__all__ = ["MODULUS", "OWN_KEY", "Parts", "opened"]

#: Key of the writer's own metadata in a file's footer.
OWN_KEY = "tl_lightning"
#: Hashes of samples are added modulo this number.
MODULUS = 1 << 256
#: Number of footers read concurrently.
THREADS = 8
#: Maximum size in bytes of a row group, which is decompressed as a whole.
LARGEST = 1 << 30


@dataclass(frozen=True)
class Parts:
    """Metadata of the Parquet files of one split.

    Attributes:
        url: Folder or address of the split.
        files: Size in bytes of each file by its path.
        groups: Row groups of all files in the order of the files' names.
        nested: Whether the image column is a struct with the field ``bytes``.
        names: Class names of integer labels, or None.
        about: The writer's own metadata.
        digest: Hash of the samples if the writer stored one, otherwise of the files' footers.
        is_copy: Whether the files are copies of those of an address.
    """

    url: str
    files: Mapping[str, int]
    groups: Sequence[RowGroup]
    nested: bool
    names: Sequence[str] | None
    about: Mapping[str, Any]
    digest: str
    is_copy: bool = False

    def shards(self, number: Mapping[str, int], window: int) -> Shards:
        """Return the samples.

        Args:
            number: Label of each class name.
            window: Number of row groups that each process keeps in memory.
        """
        columns = ["image.bytes" if self.nested else "image", "label"]
        advice = "write the shards again"
        if self.is_copy:
            advice = "remove this file to copy it again"
        elif is_remote(self.url):
            advice = "check the connection and set resume=auto, or write the shards again"
        source = RowGroups(self.url, self.groups, columns, window, advice)
        return Shards(source, self.nested, self.names, number, self.digest)

    def copied(self, root: Path) -> Parts:
        """Copy the files of an address to this machine, unless they are there already.

        Args:
            root: Parent folder of the copies of all streams.

        Raises:
            DataError: If a file cannot be fetched or written, or the disk has too little space.
        """
        fs, _ = filesystem(self.url)
        # Sizes, times and tags of the files, since other tools store no hash of the samples.
        state = [self.url, self.digest, [str(fs.info(path)) for path in self.files]]
        folder = root / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
        paths = {path: folder / Path(path).name for path in self.files}
        with locked(folder):  # the ranks of a machine share the copies
            missing = {path: to for path, to in paths.items() if not to.exists()}
            _check_space(root, sum(self.files[path] for path in missing), self.url)
            if missing:
                with advancing(f"copying {self.url}", len(missing)) as advance:
                    for path, to in missing.items():
                        _copy(fs, path, to)
                        advance(1)
        files = {str(paths[path]): size for path, size in self.files.items()}
        groups = [replace(group, path=str(paths[group.path])) for group in self.groups]
        return replace(self, url=str(folder), files=files, groups=groups, is_copy=True)

    def labels(self) -> set[str]:
        """Read the label column and return the distinct class names."""
        found: set[str] = set()
        fs, _ = filesystem(self.url)
        for path in self.files:
            try:
                with fs.open(path, "rb") as raw:
                    table = parquet().read_table(raw, columns=["label"], use_threads=False)
            except Exception as error:  # every service raises its own errors
                raise DataError(f"cannot read the labels of {path}: {reason(error)}") from error
            found |= {str(label) for label in table.column("label").unique().to_pylist()}
        return found


def opened(url: str) -> Parts:
    """Open one split; reads only the footers of its files.

    Args:
        url: Folder or address with Parquet files.

    Raises:
        DataError: If no file is found, or a file is invalid or does not contain labelled
            images.
    """
    parquet()
    fs, folder = filesystem(url)
    try:
        listed = fs.find(folder, detail=True)
    except FileNotFoundError:
        listed = {}
    except Exception as error:  # every service raises its own errors
        raise DataError(
            f"cannot list {url}: {reason(error)}; check that it exists and that you have read "
            "access"
        ) from error
    files = {path: int(listed[path]["size"]) for path in sorted(listed) if is_shard(path)}
    paths = list(files)
    if not paths:
        raise DataError(
            f"{url} contains no .parquet file; a stream has the folders train, val and test with "
            "Parquet files; run scripts/write_shards.py to write them"
        )
    with ThreadPoolExecutor(min(THREADS, len(paths))) as pool:
        footers = list(pool.map(lambda path: _footer(fs, path), paths))
    groups = [
        RowGroup(path, index, _rows(footer, index, path))
        for path, footer in zip(paths, footers, strict=True)
        for index in range(footer.num_row_groups)
    ]
    kinds = [_columns(footer, path) for path, footer in zip(paths, footers, strict=True)]
    if len(set(kinds)) > 1:
        raise DataError(
            f"{paths[0]} and {paths[[k != kinds[0] for k in kinds].index(True)]} have columns of "
            "different types; write the shards again"
        )
    nested, integers = kinds[0]
    names = _class_names(footers[0], paths[0])
    abouts = [_own_metadata(footer, path) for footer, path in zip(footers, paths, strict=True)]
    if integers and names is None:
        raise DataError(
            f"the labels of {url} are integers, but its files do not contain the class names "
            "(Hugging Face's ClassLabel does); write the shards again with class names as strings"
        )
    if all("digest" in about for about in abouts):
        digest = f"{sum(int(about['digest'], 16) for about in abouts) % MODULUS:064x}"
    else:
        digest = _hash_of(paths, footers)
    return Parts(url, files, groups, nested, names if integers else None, abouts[0], digest)


def _footer(fs: Any, path: str) -> Any:
    import pyarrow

    try:
        with fs.open(path, "rb") as file:
            return parquet().read_metadata(file)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path} is not a valid Parquet file: {reason(error)}; write the shards again"
        ) from error
    except Exception as error:  # every service raises its own errors
        raise DataError(
            f"cannot read {path}: {reason(error)}; check that it exists and that you have read "
            "access"
        ) from error


def is_shard(path: str) -> bool:
    """Return whether a path is a Parquet file that is not hidden."""
    name = path.rpartition("/")[2]
    return name.endswith(".parquet") and not name.startswith((".", "_"))


def _copy(fs: Any, path: str, to: Path) -> None:
    """Copy a file to this machine and rename it into place."""
    temporary = to.with_name(f".{to.name}.tmp")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(path, str(temporary))
        os.replace(temporary, to)
    except Exception as error:  # every service raises its own errors
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"cannot copy {path} to {to}: {reason(error)}; check that you have read access and "
            "enough disk space (the environment variable TL_CACHE sets the folder), or set "
            "data.local_copy=false to read over the network in every epoch"
        ) from error


def _check_space(root: Path, needed: int, url: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"a copy of {url} needs {needed / 1e9:.3g} GB, but {root} has {free / 1e9:.3g} GB "
            "left; set the environment variable TL_CACHE to a folder on a larger disk, or "
            "data.local_copy=false to read over the network in every epoch"
        )


def _rows(footer: Any, index: int, path: str) -> int:
    size = int(footer.row_group(index).total_byte_size)
    if size > LARGEST:
        raise DataError(
            f"row group {index} of {path} has {size / 1e9:.1f} GB, but row groups are read as a "
            f"whole and may have {LARGEST / 1e9:.1f} GB at most; write smaller row groups"
        )
    return int(footer.row_group(index).num_rows)


def _columns(footer: Any, path: str) -> tuple[bool, bool]:
    """Return whether the image column is a struct, and whether labels are integers."""
    from pyarrow import types

    schema = footer.schema.to_arrow_schema()
    found = {column.name: column.type for column in schema}
    image, label = found.get("image"), found.get("label")
    nested = False
    if image is not None and types.is_struct(image):
        nested = True
        fields = {image.field(i).name: image.field(i).type for i in range(image.num_fields)}
        image = fields.get("bytes")
    if label is not None and types.is_dictionary(label):
        label = label.value_type
    integers = label is not None and types.is_integer(label)
    strings = label is not None and (types.is_string(label) or types.is_large_string(label))
    binary = image is not None and (types.is_binary(image) or types.is_large_binary(image))
    if not binary or not (integers or strings):
        contents = ", ".join(f"{name}: {kind}" for name, kind in found.items())
        raise DataError(
            f"{path} needs the columns image (encoded bytes, or a struct with the field bytes) "
            f"and label (class names, or Hugging Face's ClassLabel), got {contents or 'none'}; "
            "write the shards again"
        )
    return nested, integers


def _class_names(footer: Any, path: str) -> Sequence[str] | None:
    """Return the class names of integer labels from Hugging Face's metadata, None without it."""
    stored = footer.schema.to_arrow_schema().metadata or {}
    try:
        info = json.loads(stored.get(b"huggingface", b"{}"))
        names = info.get("info", {}).get("features", {}).get("label", {}).get("names")
        return None if names is None else tuple(str(name) for name in names)
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"the metadata of {path} is not valid: {reason(error)}; write the shards again"
        ) from error


def _own_metadata(footer: Any, path: str) -> Mapping[str, Any]:
    """Return the writer's own metadata; empty if another tool has written the file."""
    text = (footer.metadata or {}).get(OWN_KEY.encode(), b"{}")
    try:
        about = dict(json.loads(text))
        if "digest" in about:
            int(about["digest"], 16)
        return about
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the metadata of {path} is not valid: {reason(error)}; write the shards again"
        ) from error


def _hash_of(paths: Sequence[str], footers: Sequence[Any]) -> str:
    """Return a hash of the files' names and footers, which contain sizes and statistics."""
    digest = hashlib.sha256()
    for path, footer in zip(paths, footers, strict=True):
        content = json.dumps(footer.to_dict(), sort_keys=True, default=str)
        digest.update(f"{Path(path).name}\n{content}\n".encode())
    return digest.hexdigest()
