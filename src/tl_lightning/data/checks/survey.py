"""Survey of the data before training, as a JSON-serializable dictionary."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tl_lightning.data.checks import duplicates, ignored
from tl_lightning.data.checks.domains import class_remarks
from tl_lightning.data.checks.duplicates import Place
from tl_lightning.data.checks.files import Finding, examine, quiet_decoders
from tl_lightning.data.checks.issues import BROKEN, ERROR, KINDS, NOTE, PAIRS, WARNING, printable
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.image_files import ImageFilesDataModule
from tl_lightning.data.domain import Domain
from tl_lightning.data.encoding import encoded
from tl_lightning.data.io.unreadable import LIMIT
from tl_lightning.data.pretraining_overlap import pretraining_overlap
from tl_lightning.errors import DataError
from tl_lightning.utils.progress import advancing

__all__ = ["survey"]

#: Ratio of training images of the largest to the smallest class above which a warning is issued.
IMBALANCE = 10


def survey(data: TransferDataModule) -> dict[str, Any]:
    """Check all images of a data module.

    Args:
        data: Data module before :meth:`discover`; it must not be used for training afterwards.

    Returns:
        JSON-serializable values: "may_start"; the numbers of "errors" and "warnings"; "problems"
        (messages on the dataset as a whole), "domains", "files" by kind of problem, "levels" of
        these kinds, "examined" (number of files), "sizes", "duplicates", "remarks", "overlap" and
        "seconds".
    """
    data.check_browsable()
    started = time.monotonic()
    problems: list[str] = []
    white: float | None = None
    found: Mapping[str, Domain] = {}
    data.collect_problems(problems.append)
    try:
        found = data.domains()
        problems += data.check_domains(found)
        encoded(data, dict(found))  # labels that are not classes
        if isinstance(data, ImageFilesDataModule):
            found = data.scaled(found)
            white = data.input_state.get("max_value")
    except DataError as error:  # the dataset cannot be loaded at all
        problems.append(str(error))
    problems = list(dict.fromkeys(map(printable, problems)))
    places = _places(found)
    paths = [key for key in places if isinstance(key, Path)]
    findings = _examine(paths, white)
    bare = {path for path in paths if not any(place.label for place in places[path])}
    labelled = [path for path in paths if path not in bare]
    files = _by_kind(findings, ignored.passed_over(labelled, sorted(bare)))
    levels = {kind: KINDS[kind].level for kind in files}
    remarks = [{"level": NOTE, "text": text} for text in getattr(data, "pixel_notes", ())]
    remarks += _remarks(found) + _skipped(files, levels, len(paths), getattr(data, "on_error", ""))
    pairs = _duplicates(places, findings) + _duplicates_in_memory(found, places)
    splits = [split for domain in found.values() for split in domain.splits().values()]
    names = [name for split in splits for name in split.names]
    counted = [(levels[kind], len(items)) for kind, items in files.items()]
    counted += [(pair["level"], 1) for pair in pairs] + [(r["level"], 1) for r in remarks]
    errors = len(problems) + sum(number for level, number in counted if level == ERROR)
    return {
        "schema": 1,
        "name": data.name,
        "may_start": errors == 0,
        "errors": errors,
        "warnings": sum(number for level, number in counted if level == WARNING),
        "problems": problems,
        "domains": {key: _counts(domain) for key, domain in found.items()},
        "files": files,
        "levels": levels,
        "examined": len(paths),
        "sizes": _sizes(findings),
        "duplicates": pairs,
        "remarks": remarks,
        "overlap": pretraining_overlap(names, data.overlap),
        "seconds": round(time.monotonic() - started, 2),
    }


# -- places and counts ---------------------------------------------------------------------------
def _places(found: Mapping[str, Domain]) -> dict[Any, list[Place]]:
    """Return the places of every image by path, or by (key, split, index) if in memory."""
    places: dict[Any, list[Place]] = {}
    for key, domain in found.items():
        for name, split in domain.splits().items():
            if name == "test" and split is domain.val:  # data.test_split=val
                continue
            labels = [] if split.labels is None else split.labels.tolist()
            # Without labels nothing is tested, so that copies of an image do no harm.
            effective = "train" if name == "labelled" or domain.test.labels is None else name
            for index in range(len(split)):
                label = printable(domain.classes[labels[index]]) if labels else ""
                in_memory = isinstance(split.samples, np.ndarray)
                image = (key, name, index) if in_memory else Path(split.samples[index])
                places.setdefault(image, []).append(Place(key, effective, label))
    return places


def _counts(domain: Domain) -> dict[str, Any]:
    classes: dict[str, dict[str, int]] = {printable(name): {} for name in domain.classes}
    for name, split in domain.splits().items():
        if split.labels is not None:
            numbers = np.bincount(split.labels, minlength=len(domain.classes)).tolist()
            for label, number in zip(domain.classes, numbers, strict=True):
                classes[printable(label)][name] = number
    splits = {name: len(split) for name, split in domain.splits().items()}
    return {
        "name": printable(domain.name),
        "note": printable(domain.note),
        "splits": splits,
        "classes": classes,
    }


def _remarks(found: Mapping[str, Domain]) -> list[dict[str, str]]:
    """Return warnings on the classes, such as imbalance."""
    warnings = []
    for key, domain in found.items():
        classes = _counts(domain)["classes"]
        sizes = {n: c.get("train", 0) + c.get("labelled", 0) for n, c in classes.items()}
        sizes = {name: size for name, size in sizes.items() if size}
        if sizes and max(sizes.values()) > IMBALANCE * min(sizes.values()):
            least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
            warnings.append(
                f"imbalance in {key}: {sizes[most]} training images of {most!r}, "
                f"{sizes[least]} of {least!r} ({sizes[most] / sizes[least]:.0f} to 1)"
            )
        warnings += map(printable, class_remarks(key, domain))
    return [{"level": WARNING, "text": text} for text in warnings]


# -- the files -----------------------------------------------------------------------------------
def _examine(paths: Sequence[Path], white: float | None = None) -> list[Finding]:
    Image.init()  # load the decoder plugins before threads race to do so
    findings = []
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        with quiet_decoders(), advancing(f"checking {len(paths):,} images", len(paths)) as advance:
            for finding in pool.map(lambda path: examine(path, white), paths):
                findings.append(finding)
                advance(1)
    finally:  # do not start pending checks after Ctrl-C
        pool.shutdown(wait=False, cancel_futures=True)
    return findings


def _by_kind(findings: Sequence[Finding], ignored_files: Any) -> dict[str, list[dict[str, str]]]:
    examined = [(kind, f.path, detail) for f in findings for kind, detail in f.kinds.items()]
    files: dict[str, list[dict[str, str]]] = {}
    for kind, path, detail in [*examined, *ignored_files]:
        files.setdefault(kind, []).append({"path": printable(path), "detail": printable(detail)})
    return {kind: files[kind] for kind in KINDS if kind in files}


def _skipped(
    files: Mapping[str, Any], levels: dict[str, str], total: int, on_error: str
) -> list[dict[str, str]]:
    """Downgrade unreadable files to warnings if ``data.on_error=skip`` would leave them out."""
    broken = {item["path"] for kind in BROKEN for item in files.get(kind, [])}
    if on_error != "skip" or not broken:
        return []
    limit = f"{LIMIT:.0%} that data.on_error=skip allows"
    if len(broken) > LIMIT * total:
        text = f"{len(broken)} of {total} files are unreadable, more than the {limit}"
        return [{"level": NOTE, "text": text}]
    levels.update({kind: WARNING for kind in BROKEN if kind in levels})
    text = f"{len(broken)} unreadable file(s) would be skipped (within the {limit})"
    return [{"level": NOTE, "text": text}]


def _sizes(findings: Sequence[Finding]) -> dict[str, dict[str, int]]:
    sizes = [finding.size for finding in findings if finding.size is not None]
    if not sizes:
        return {}
    return {
        side: {"min": min(values), "median": round(statistics.median(values)), "max": max(values)}
        for side, values in zip(("width", "height"), zip(*sizes, strict=True), strict=True)
    }


# -- duplicates ----------------------------------------------------------------------------------
def _duplicates(
    places: Mapping[Any, list[Place]], findings: Sequence[Finding]
) -> list[dict[str, Any]]:
    decoded = [finding for finding in findings if finding.phash is not None]
    if not decoded:
        return []
    equal = duplicates.same([finding.digest for finding in decoded])
    copies = {later for _, later in equal}
    # Exact copies of a file need not be compared visually.
    unique = [index for index in range(len(decoded)) if index not in copies]
    hashes = np.array([decoded[index].phash for index in unique], dtype=np.uint64)
    pixels = b"".join(decoded[index].thumbnail for index in unique)
    thumbnails = np.frombuffer(pixels, dtype=np.uint8).reshape(len(unique), -1)
    similar = [(unique[i], unique[j]) for i, j in duplicates.alike(hashes, thumbnails)]
    groups = []
    for group in duplicates.grouped(equal + similar):
        members = [decoded[index] for index in group]
        exact = len({finding.digest for finding in members}) == 1
        groups.append(_group([(f.path, places[f.path]) for f in members], exact))
    return _ordered(groups)


def _duplicates_in_memory(
    found: Mapping[str, Domain], places: Mapping[Any, list[Place]]
) -> list[dict[str, Any]]:
    keys, names, content = [], [], []
    for key, domain in found.items():
        for name, split in domain.splits().items():
            if isinstance(split.samples, np.ndarray):
                keys += [(key, name, index) for index in range(len(split))]
                names += [f"{key}/{name}/{image_name}" for image_name in split.names]
                content += [sha256(image.tobytes()).digest() for image in split.samples]
    groups = duplicates.grouped(duplicates.same(content))
    return _ordered([_group([(names[i], places[keys[i]]) for i in g], True) for g in groups])


def _group(members: Sequence[tuple[Path | str, list[Place]]], exact: bool) -> dict[str, Any]:
    kind = duplicates.judge([places for _, places in members])
    return {
        "kind": kind,
        "level": PAIRS[kind].level,
        "exact": exact,
        "paths": [
            {
                "path": printable(path),
                "places": sorted({f"{place.domain}/{place.split}" for place in places}),
                "class": places[0].label,
            }
            for path, places in members
        ],
    }


def _ordered(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(groups, key=lambda group: list(PAIRS).index(group["kind"]))
