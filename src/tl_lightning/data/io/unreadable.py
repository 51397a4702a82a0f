"""Pictures that cannot be read, found before training and left out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tl_lightning.data.cache.images import cache_root
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.images import open_picture
from tl_lightning.errors import DataError
from tl_lightning.utils.files import locked
from tl_lightning.utils.progress import advancing

__all__ = ["LIMIT", "unreadable", "without_unreadable"]

#: Largest share of pictures that may be left out.
LIMIT = 0.01


def without_unreadable(domain: Domain) -> tuple[Domain, list[str]]:
    """Return the domain without the pictures that cannot be read, and a sentence on each.

    Raises:
        DataError: If they are more than 1 % of its pictures.
    """
    paths = domain.paths()
    faults = unreadable(paths)
    if not faults:
        return domain, []
    share = len(faults) / len(paths)
    shown = [f"{path} ({fault})" for path, fault in faults.items()]
    if share > LIMIT:
        raise DataError(
            f"data.on_error=skip leaves out at most {LIMIT:.0%}, but {len(faults)} of {len(paths)} "
            f"pictures of {domain.name} ({share:.1%}) cannot be read: {', '.join(shown[:5])}; "
            "mend or remove them (scripts/check_data.py lists all)"
        )

    def kept(split: Split) -> Split:
        good = [k for k, path in enumerate(split.pictures) if Path(path) not in faults]
        return split if len(good) == len(split) else split.subset(good)

    splits: dict[str, Any] = {name: kept(split) for name, split in domain.splits().items()}
    return replace(domain, **splits), shown


def unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every picture with all cores; return what is wrong with those that cannot be.

    The result is kept beside the caches by the files' sizes and times of change: the next run
    does not look again.
    """
    stamps = [(str(path), *_stamp(path)) for path in paths]
    key = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]
    kept = cache_root() / "readable" / f"{key}.json"
    with locked(kept):
        if kept.is_file():
            return {Path(path): fault for path, fault in json.loads(kept.read_text()).items()}
        found = _look(paths)
        draft = kept.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps({str(path): fault for path, fault in found.items()}))
        os.replace(draft, kept)
    return found


def _look(paths: Sequence[Path]) -> dict[Path, str]:
    found = {}
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        advancing(f"looking at {len(paths):,} pictures", len(paths)) as advance,
    ):
        for path, fault in zip(paths, pool.map(_fault, paths), strict=True):
            if fault:
                found[path] = fault
            advance(1)
    return found


def _fault(path: Path) -> str:
    try:
        open_picture(path)
    except DataError as error:
        return str(error.__cause__)
    return ""


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, -1)
    return (stat.st_size, stat.st_mtime_ns)
