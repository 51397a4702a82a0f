"""Fetching archives: resumable, checked, one process at a time; and unpacking them safely."""

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
    """Fetch ``url`` to ``path`` unless it is there, going on where an earlier attempt stopped.

    The bytes go to ``<name>.part`` and get the final name only when the checksum agrees, so that
    the final name is never a broken file.

    Args:
        url: ``http`` or ``https``.
        path: Where the file goes.
        checksum: ``sha256:<hex>`` or ``md5:<hex>``.
        size: The file's length in bytes, if known.
        elsewhere: Where else the file can be had, for the errors.

    Returns:
        ``path``.

    Raises:
        DataError: If the link is dead, the connection keeps breaking, the disk is full or the
            file is not the expected one; each says where to put the file by hand.
    """
    by_hand = f"get it from {elsewhere} and put it at {path}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"cannot download {url}: not an http or https address; {by_hand}")
    part = path.with_name(f"{path.name}.part")
    with locked(path):
        if path.exists():
            if fault := _fault(path, checksum, size):
                raise DataError(
                    f"{path} is not the file of {url}: {fault}; remove it and try again"
                )
            return path
        # A resumed file may have been begun on another version: then once more from the start.
        for _ in range(2 if part.exists() else 1):
            _fetch_whole(url, part, size, by_hand)
            fault = _fault(part, checksum, size)
            if not fault:
                os.replace(part, path)
                return path
            part.unlink()
    raise DataError(f"{url} is not the expected file: {fault}; it was removed; {by_hand}")


def extract(archive: Path, folder: Path, *, inside: str = "") -> Path:
    """Unpack a tar or zip archive so that ``folder`` appears whole or not at all.

    Args:
        archive: The archive.
        folder: Must not exist yet; if another process has made it meanwhile, that one is kept.
        inside: The folder within the archive that becomes ``folder``; empty for all of it.

    Returns:
        ``folder``.

    Raises:
        DataError: If a member would land outside (by path or link), or the archive is broken.
    """
    with locked(folder):
        if folder.exists():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as holder:
            unpacked = Path(holder) / "unpacked"
            try:
                _unpack(archive, unpacked)
            except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
                reason = f"{error}".partition("\n")[0]  # Tar lists every compression it has tried.
                raise DataError(
                    f"cannot unpack {archive}: {reason}; remove it and try again, or unpack a good "
                    f"copy by hand to {folder}"
                ) from error
            if not (unpacked / inside).is_dir():
                raise DataError(
                    f"{archive} holds no folder {inside!r}; remove it and try again, or unpack a "
                    f"good copy by hand to {folder}"
                )
            os.replace(unpacked / inside, folder)
    return folder


def find_or_fetch(
    find: Callable[[str], Path], fetch: Callable[[], Path], *, wanted: bool, megabytes: int
) -> Path:
    """Return what ``find`` finds, or else, if a download is ``wanted``, what ``fetch`` fetches.

    Args:
        find: Gets the words of the other way out for its error.
        fetch: Downloads.
        wanted: ``data.download``.
        megabytes: How much that is.

    Raises:
        DataError: As ``find`` and ``fetch`` do.
    """
    try:
        return find(f"data.download=true to fetch {megabytes} MB")
    except DataError:
        if not wanted:
            raise
    return fetch()


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            for member in pack.infolist():
                parts = Path(member.filename.replace("\\", "/")).parts
                link = stat.S_ISLNK(member.external_attr >> 16)
                if link or ".." in parts or member.filename.startswith(("/", "\\")):
                    raise DataError(
                        f"{archive} holds {member.filename!r}, which would land outside {folder}; "
                        "do not trust this archive: remove it and get another"
                    )
            pack.extractall(folder)
        return
    with tarfile.open(archive) as tar:
        try:
            tar.extractall(folder, filter="data")
        except tarfile.FilterError as error:
            raise DataError(
                f"{archive} holds {error.tarinfo.name!r}, which would land outside {folder} "
                f"({error}); do not trust this archive: remove it and get another"
            ) from error


def _fetch_whole(url: str, part: Path, size: int | None, by_hand: str) -> None:
    """Connect until the file is whole; every connection goes on where the last one broke."""
    fault = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            if _fetch(url, part, size):
                return
            fault = "the connection broke"
        except HTTPError as error:
            error.close()
            if error.code == 416:  # Nothing beyond what we have: the checksum will judge it.
                return
            fault = f"HTTP {error.code} {error.reason}"
            if error.code < 500:
                break
        except (OSError, HTTPException) as error:
            fault = f"{type(error).__name__}: {error}"
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"the disk is full: {part} has {_length(part):,} bytes and is kept; make room "
                    f"and try again, or set data.root= to a larger disk; or {by_hand}"
                ) from error
    have = _length(part)
    kept = f"; {have:,} bytes are kept and the next attempt goes on there" if have else ""
    raise DataError(f"cannot download {url}: {fault}{kept}; {by_hand}")


def _fetch(url: str, part: Path, size: int | None) -> bool:
    """Fetch over one connection and return whether the file is whole as far as one can tell."""
    have = _length(part)
    headers = {"User-Agent": "tl_lightning"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as response:
        if have and response.status != 206:
            have = 0  # This server cannot resume: from the start.
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else size
        with (
            part.open("ab" if have else "wb") as file,
            _progress(part.stem, total, have) as advance,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                advance(len(block))
    return total is None or _length(part) >= total


@contextmanager
def _progress(name: str, total: int | None, have: int) -> Iterator[Callable[[int], None]]:
    """Show a bar where somebody can see it; one line in the log elsewhere."""
    if not sys.stderr.isatty():
        size = f"{total:,} bytes" if total else "size unknown"
        _log.info("downloading %s (%s, %s there already)", name, size, f"{have:,}")
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=have)
        yield lambda done: bar.advance(task, done)


def _fault(path: Path, checksum: str, size: int | None) -> str:
    length = path.stat().st_size
    if size is not None and length != size:
        return f"{length:,} bytes, expected {size:,}"
    kind, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, kind).hexdigest()
    return "" if got == expected else f"{kind} {got}, expected {expected}"


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
