"""Detection of unreadable images before training (``data.on_error=skip``)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tl_lightning.config.schema import cache_root
from tl_lightning.data.cache.contents import contents
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.images import open_image
from tl_lightning.errors import DataError
from tl_lightning.utils.files import locked
from tl_lightning.utils.progress import advancing

__all__ = ["LIMIT", "unreadable", "without_unreadable"]

#: Maximum fraction of a domain's images that may be left out; in small sets 3, at most a tenth.
LIMIT, FEW, TENTH = 0.01, 3, 0.1


def without_unreadable(domain: Domain) -> tuple[Domain, list[str]]:
    """Return the domain without its unreadable images, and a message for each of them.

    Raises:
        DataError: If more than 1% of the images are unreadable, or a few of a small set.
    """
    paths = domain.paths()
    problems = unreadable(paths)
    if not problems:
        return domain, []
    fraction = len(problems) / len(paths)
    messages = [f"{path} ({problem})" for path, problem in problems.items()]
    if fraction > LIMIT and not (len(problems) <= FEW and fraction <= TENTH):
        raise DataError(
            f"data.on_error=skip leaves out at most {LIMIT:.0%} of the images, in small sets "
            f"{FEW} and at most {TENTH:.0%}, but {len(problems)} of {len(paths)} images of "
            f"{domain.name} ({fraction:.1%}) cannot be read: {', '.join(messages[:5])}; fix or "
            "remove them (scripts/check_data.py lists all)"
        )

    def readable(split: Split) -> Split:
        keep = [k for k, path in enumerate(split.samples) if Path(path) not in problems]
        return split if len(keep) == len(split) else split.subset(keep)

    return domain.map(readable), messages


def unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every image on all cores and return the problem of each unreadable one.

    The result is cached by the files' paths and contents, unless a file could not be read at all:
    that depends on its permissions, or on its disk.
    """
    hashes = contents(paths)
    if not hashes.any(axis=1).all():
        return _decode_all(paths)
    digest = hashlib.sha256(json.dumps([str(path) for path in paths]).encode())
    digest.update(hashes.tobytes())
    key = digest.hexdigest()[:16]
    cached = cache_root() / "readable" / f"{key}.json"
    with locked(cached):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # missing or damaged
            return {Path(path): problem for path, problem in json.loads(cached.read_text()).items()}
        problems = _decode_all(paths)
        temporary = cached.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({str(path): text for path, text in problems.items()}))
        os.replace(temporary, cached)
    return problems


def _decode_all(paths: Sequence[Path]) -> dict[Path, str]:
    problems = {}
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        advancing(f"checking {len(paths):,} images", len(paths)) as advance,
    ):
        for path, problem in zip(paths, pool.map(_problem, paths), strict=True):
            if problem:
                problems[path] = problem
            advance(1)
    return problems


def _problem(path: Path) -> str:
    try:
        open_image(path)
    except DataError as error:
        return str(error.__cause__)
    return ""
