"""Dataset summary for the report: counts, fingerprint and notes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tl_lightning.data.cache.contents import contents
from tl_lightning.data.domain import Domain
from tl_lightning.data.pretraining_overlap import pretraining_overlap
from tl_lightning.types import SPLITS, SplitKey
from tl_lightning.utils.text import shorten

__all__ = [
    "class_counts", "counts", "domain_notes", "fingerprint", "fitting_batch", "numbers",
    "split_notes", "unlabelled",
]  # fmt: skip


def counts(domains: Mapping[str, Domain]) -> dict[str, int]:
    """Return the number of samples by ``domain/split``."""
    return {
        str(SplitKey(name, split)): len(domain.splits()[split])
        for name, domain in domains.items()
        for split in SPLITS
    }


def class_counts(domain: Domain) -> list[int] | None:
    """Return the number of labelled training samples per class, or None without labels."""
    labels = domain.train.labels
    if labels is None:
        return None
    return [int(number) for number in np.bincount(labels, minlength=len(domain.classes))]


def numbers(domains: Mapping[str, Domain]) -> tuple[int, int]:
    """Return the number of domains of the source, and of training samples of the target."""
    target = domains.get("target")
    return max(1, len(domains["source"].domains)), 0 if target is None else len(target.train)


def unlabelled(domains: Mapping[str, Domain]) -> list[str]:
    """Return the splits without labels, as ``domain/split``."""
    return [
        str(SplitKey(name, split))
        for name, domain in domains.items()
        for split in SPLITS
        if not domain.splits()[split].has_labels
    ]


def fingerprint(domains: Mapping[str, Domain]) -> str:
    """Return a hash of classes and samples: their split, names, labels and contents."""
    digest = hashlib.sha256()
    for name, domain in domains.items():
        digest.update("\n".join([name, *domain.classes]).encode(errors="surrogateescape"))
        for split in SPLITS:
            part = domain.splits()[split]
            digest.update(f"{SplitKey(name, split)}/{len(part)}".encode())
            digest.update("\n".join(part.names).encode(errors="surrogateescape"))
            if isinstance(part.samples, np.ndarray):
                digest.update(np.ascontiguousarray(part.samples).tobytes())
            else:
                digest.update(contents([Path(path) for path in part.samples]).tobytes())
            if part.labels is not None:
                digest.update(np.ascontiguousarray(part.labels).tobytes())
    return digest.hexdigest()


def split_notes(domains: Mapping[str, Domain]) -> list[str]:
    """Return the notes of the domains; one that several have is given once.

    >>> from types import SimpleNamespace as One
    >>> split_notes({"source": One(note="a"), "target": One(note="a"), "other": One(note="")})
    ['source and target: a']
    """
    having: dict[str, list[str]] = {}
    for name, domain in domains.items():
        having.setdefault(domain.note, []).append(name)
    return [f"{' and '.join(names)}: {note}" for note, names in having.items() if note]


def domain_notes(
    domains: Mapping[str, Domain],
    unreadable: Mapping[str, list[str]],
    overlap: str,
    pretrained: bool,
) -> list[str]:
    """Return the notes on the data to show in the report.

    Args:
        domains: By ``source`` and ``target``.
        unreadable: Skipped images by domain, as "path (reason)".
        overlap: Overlap of the dataset with pretraining data, as text; empty if none is known.
        pretrained: Whether the backbone is pretrained, so that overlap matters.
    """
    found = split_notes(domains)
    names = [one for domain in domains.values() for one in domain.train.names]
    if pretrained and (text := pretraining_overlap(names, overlap)):
        found.append(text)
    found += [
        f"{name}: {len(problems)} unreadable image(s) skipped: {shorten(problems)}"
        for name, problems in unreadable.items()
    ]
    return found


def fitting_batch(domains: Mapping[str, Domain], size: int) -> tuple[int, list[str]]:
    """Return a batch size that no domain is smaller than, and a note if it is not ``size``."""
    sizes = [(len(domain.train), domain.name) for domain in domains.values() if len(domain.train)]
    least, name = min(sizes, default=(size, ""))  # domains that are only tested are not trained on
    if least >= size:
        return size, []
    return least, [
        f"{name} has {least} training samples, fewer than data.batch_size={size}; batches of "
        f"{least} were used"
    ]
