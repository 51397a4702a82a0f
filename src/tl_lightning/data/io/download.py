"""Resumable, checksummed downloads and safe extraction of archives."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tl_lightning.errors import DataError
from tl_lightning.utils.files import locked

__all__ = ["download", "extract", "find_or_fetch"]

ATTEMPTS = 4
PAUSE_S = 1.0
TIMEOUT_S = 60.0
BLOCK = 1 << 20

_log = logging.getLogger(__name__)


def download(url: str, path: Path, *, checksum: str, size: int | None, elsewhere: str) -> Path:
    """Download ``url`` to ``path`` unless it exists, resuming an earlier partial download.

    The data is written to ``<name>.part`` and renamed once the checksum matches, so that ``path``
    is never a partial file. Other processes wait.

    Args:
        url: ``http`` or ``https``.
        path: Destination file.
        checksum: ``sha256:<hex>`` or ``md5:<hex>``.
        size: Size of the file in bytes, if known.
        elsewhere: Where else to get the file, for error messages.

    Returns:
        ``path``.

    Raises:
        DataError: If the link is dead, the connection keeps breaking, the disk is full or the
            file is not the expected one; the message says how to download the file manually.
    """
    manual_hint = f"get it from {elsewhere} and put it at {path}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"cannot download {url}: not an http or https address; {manual_hint}")
    part = path.with_name(f"{path.name}.part")
    with locked(path):
        if path.exists():
            if problem := _problem(path, checksum, size):
                raise DataError(
                    f"{path} is not the file from {url}: {problem}; remove it and try again"
                )
            return path
        # The partial file may be of another version of the file: retry once from the start.
        for _ in range(2 if part.exists() else 1):
            _fetch_with_retries(url, part, size, manual_hint)
            problem = _problem(part, checksum, size)
            if not problem:
                os.replace(part, path)
                return path
            part.unlink()
    raise DataError(f"{url} is not the expected file: {problem}; it was removed; {manual_hint}")


def extract(archive: Path, folder: Path, *, inside: str = "") -> Path:
    """Unpack a tar or zip archive atomically: ``folder`` is either complete or missing.

    Args:
        archive: The archive.
        folder: Destination; left unchanged if it exists.
        inside: The folder within the archive that becomes ``folder``; empty for all of it.

    Returns:
        ``folder``.

    Raises:
        DataError: If a member would be written outside (by path or link) or the archive is corrupt.
    """
    with locked(folder):
        if folder.exists():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            unpacked = Path(temporary) / "unpacked"
            try:
                _unpack(archive, unpacked)
            except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
                reason = f"{error}".partition("\n")[0]  # tarfile lists every compression it tried.
                raise DataError(
                    f"cannot unpack {archive}: {reason}; remove it and try again, or unpack an "
                    f"intact copy to {folder}"
                ) from error
            if not (unpacked / inside).is_dir():
                raise DataError(
                    f"{archive} contains no folder {inside!r}; remove it and try again, or unpack "
                    f"an intact copy to {folder}"
                )
            os.replace(unpacked / inside, folder)
    return folder


def find_or_fetch(
    find: Callable[[str], Path], fetch: Callable[[], Path], *, wanted: bool, megabytes: int
) -> Path:
    """Return the folder from ``find`` or, if it raises and a download is ``wanted``, ``fetch``.

    Args:
        find: Locates the dataset; receives a hint on the download for its error message.
        fetch: Downloads the dataset.
        wanted: Value of ``data.download``.
        megabytes: Size of the download, for the hint.

    Raises:
        DataError: Raised by ``find`` or ``fetch``.
    """
    try:
        return find(f"data.download=true to fetch {megabytes} MB")
    except DataError:
        if not wanted:
            raise
    return fetch()


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zip_file:
            for member in zip_file.infolist():
                parts = Path(member.filename.replace("\\", "/")).parts
                is_link = stat.S_ISLNK(member.external_attr >> 16)
                if is_link or ".." in parts or member.filename.startswith(("/", "\\")):
                    raise DataError(
                        f"{archive} contains {member.filename!r}, which would be written outside "
                        f"{folder}; do not trust this archive: remove it and get another copy"
                    )
            zip_file.extractall(folder)
        return
    with tarfile.open(archive) as tar:
        try:
            tar.extractall(folder, filter="data")
        except tarfile.FilterError as error:
            raise DataError(
                f"{archive} contains {error.tarinfo.name!r}, which would be written outside "
                f"{folder} ({error}); do not trust this archive: remove it and get another copy"
            ) from error


def _fetch_with_retries(url: str, part: Path, size: int | None, manual_hint: str) -> None:
    """Retry until the file is complete; each attempt resumes where the last one stopped."""
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            if _fetch(url, part, size):
                return
            problem = "the connection broke"
        except HTTPError as error:
            error.close()
            if error.code == 416:  # Nothing left to download; the checksum is verified later.
                return
            problem = f"HTTP {error.code} {error.reason}"
            if error.code < 500:
                break
        except (OSError, HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"the disk is full: {part} has {_length(part):,} bytes and is kept; free some "
                    "disk space and try again, or set data.root= to a larger disk; or "
                    f"{manual_hint}"
                ) from error
    received = _length(part)
    kept = f"; {received:,} bytes are kept and the next attempt resumes there" if received else ""
    raise DataError(f"cannot download {url}: {problem}{kept}; {manual_hint}")


def _fetch(url: str, part: Path, size: int | None) -> bool:
    """Download over one connection; return whether the file has its expected size."""
    received = _length(part)
    headers = {"User-Agent": "tl_lightning"}
    if received:
        headers["Range"] = f"bytes={received}-"
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as response:
        if received and response.status != 206:
            received = 0  # The server does not support ranges: start over.
        length = response.headers.get("Content-Length")
        total = received + int(length) if length else size
        with (
            part.open("ab" if received else "wb") as file,
            _progress(part.stem, total, received) as advance,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                advance(len(block))
    return total is None or _length(part) >= total


@contextmanager
def _progress(name: str, total: int | None, received: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, otherwise log one line."""
    if not sys.stderr.isatty():
        size = f"{total:,} bytes" if total else "size unknown"
        _log.info("downloading %s (%s, %s already received)", name, size, f"{received:,}")
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=received)
        yield lambda done: bar.advance(task, done)


def _problem(path: Path, checksum: str, size: int | None) -> str:
    length = path.stat().st_size
    if size is not None and length != size:
        return f"{length:,} bytes, expected {size:,}"
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if got == expected else f"{algorithm} {got}, expected {expected}"


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
