"""Row groups of Parquet files, of which each process keeps a few in memory."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tl_lightning.errors import DataError

__all__ = ["RowGroup", "RowGroups", "filesystem", "is_remote", "parquet", "reason"]


def parquet() -> Any:
    """Import and return ``pyarrow.parquet``; raises DataError if pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"data=stream requires the package pyarrow, which cannot be imported ({error}); run "
            "pip install 'tl_lightning[stream]'"
        ) from error
    return pyarrow.parquet


def is_remote(url: str) -> bool:
    """Return whether a stream is at an address of fsspec instead of in a folder.

    >>> is_remote("/shards/photo"), is_remote("s3://bucket/photo")
    (False, True)
    """
    return "://" in url


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address and the path within it.

    Raises:
        DataError: If fsspec does not know the scheme or its package is not installed.
    """
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"cannot open {url}: {error}; set a folder or an address that fsspec supports, such "
            "as s3://bucket/photo"
        ) from error
    return fs, path


def reason(error: BaseException) -> str:
    """Return the message of an error on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file.

    Attributes:
        path: Path of the file within its file system.
        index: Index of the row group within the file.
        rows: Number of rows.
    """

    path: str
    index: int
    rows: int

    @property
    def where(self) -> str:
        """Return the row group's location for messages."""
        return f"row group {self.index} of {self.path}"


class RowGroups:
    """The row groups of one split.

    All workers read samples from a window of row groups in random order, so each process keeps
    the last ``window`` of them in memory.

    Args:
        url: Folder or address of the split.
        groups: The row groups in the order of the samples.
        columns: Columns to read.
        window: Number of row groups that each process keeps in memory.
        advice: What to do about a damaged file, for messages.
    """

    def __init__(
        self,
        url: str,
        groups: Sequence[RowGroup],
        columns: Sequence[str],
        window: int,
        advice: str = "write the shards again",
    ) -> None:
        self.url = url
        self.groups = groups
        self.columns = list(columns)
        self.window = window
        self.advice = advice
        self._reset()

    def _reset(self) -> None:
        self._tables: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out tables in memory; each worker reads its own."""
        return {key: value for key, value in vars(self).items() if key not in ("_tables", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    def table(self, group: int) -> Any:
        """Return a row group as a ``pyarrow.Table``.

        Raises:
            DataError: If it cannot be read or is damaged.
        """
        with self._lock:
            found = self._tables.pop(group, None)
            if found is None:
                found = self._read(self.groups[group])
            self._tables[group] = found
            while len(self._tables) > self.window:
                self._tables.popitem(last=False)
        return found

    def _read(self, group: RowGroup) -> Any:
        """Read a row group and verify its checksums."""
        library = parquet()
        import pyarrow

        # A remote row group is requested as a whole, a local one is mapped into memory.
        remote = is_remote(self.url)
        options = {"pre_buffer": remote, "memory_map": not remote}
        options["page_checksum_verification"] = True
        try:
            raw = filesystem(self.url)[0].open(group.path, "rb") if remote else group.path
            with contextlib.closing(library.ParquetFile(raw, **options)) as file:
                return file.read_row_group(group.index, columns=self.columns, use_threads=False)
        except FileNotFoundError as error:
            raise DataError(
                f"{group.path} not found, but it existed when the run started; restore it and set "
                "resume=auto"
            ) from error
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"cannot read {group.where}: {reason(error)}; {self.advice}") from error
        except Exception as error:  # every service raises its own errors
            raise DataError(
                f"cannot read {group.where}: {reason(error)}; check the connection and that you "
                "have read access, then set resume=auto"
            ) from error
