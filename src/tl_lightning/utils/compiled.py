"""C files of this package, compiled for this machine when they are first used."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["compiled"]

_FLAGS = ("-std=c11", "-O3", "-shared", "-fPIC")
#: Exceptions for an invalid or missing compiler, an error or timeout of it, and a file that cannot
#: be loaded.
_FAILED = (OSError, ValueError, subprocess.SubprocessError)
_SECONDS = 60


def compiled(source: Path, folder: Path) -> ctypes.CDLL | None:
    """Return a C file as a library, or None if it cannot be compiled or loaded here.

    Takes about a second once per user and version of the file; the compiler is ``$CC`` or ``cc``.

    Args:
        source: The C file.
        folder: Where the library is kept. It must belong to this user alone, as its files are
            executed.
    """
    try:
        command = shlex.split(os.environ.get("CC", "")) or ["cc"]  # such as "ccache gcc"
        version = hashlib.sha256(" ".join(_FLAGS).encode() + source.read_bytes()).hexdigest()[:16]
        library = folder / f"{source.stem}-{version}.so"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private(folder):
            return None
        with contextlib.suppress(OSError):  # not there yet, or damaged
            if _private(library):
                return ctypes.CDLL(str(library))
        if shutil.which(command[0]) is None:
            return None
        _compile(command, source, library)
        return ctypes.CDLL(str(library))
    except _FAILED:
        return None


def _private(path: Path) -> bool:
    """Return whether only this user can have written a file or folder."""
    found = path.lstat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _compile(compiler: Sequence[str], source: Path, library: Path) -> None:
    # Renamed when it is complete, as several processes may compile at once.
    with tempfile.TemporaryDirectory(dir=library.parent) as draft:
        target = Path(draft) / library.name
        command = [*compiler, *_FLAGS, str(source), "-o", str(target)]
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        target.chmod(0o700)
        target.replace(library)
