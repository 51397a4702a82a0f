"""What a report says of the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from tl_lightning.data.domain import DOMAINS, Domain, Split
from tl_lightning.data.pretraining_overlap import pretraining_overlap

__all__ = ["Facts"]

SHOWN = 5


class Facts:
    """The part of a data module that describes what it has found."""

    #: Which pretraining has seen these pictures, in words; empty if none is known to have.
    overlap: ClassVar[str] = ""
    found: dict[str, Domain]
    learn_from: str
    quarantined: dict[str, list[str]]

    @property
    def roles(self) -> list[str]:
        """The domains present, source first."""
        return [role for role in DOMAINS if role in self.found]

    def notes(self, pretrained: bool) -> list[str]:
        """Return what the report must say of the data, a sentence each.

        Args:
            pretrained: Whether the backbone has learned from other pictures before.
        """
        found = [f"{role}: {self.found[role].note}" for role in self.roles if self.found[role].note]
        names = [name for domain in self.found.values() for name in domain.train.names]
        overlap = pretraining_overlap(names, self.overlap) if pretrained else ""
        if overlap:
            found.append(overlap)
        for role, faults in self.quarantined.items():
            more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
            found.append(
                f"{role}: {len(faults)} pictures that cannot be read were left out: "
                f"{', '.join(faults[:SHOWN])}{more}"
            )
        return found

    def domain_of(self, stream: str) -> str:
        """Return whose pictures a stream of training batches shows."""
        return self.learn_from if stream == "source" else stream

    def oracle_faults(self, found: Mapping[str, Domain]) -> Iterator[str]:
        """Yield why the target's labels cannot teach a model that is tested on the target."""
        target = found.get("target")
        if self.learn_from == "source" or target is None:
            return
        shared = set(target.train.names) & set(target.test.names)
        if target.train.labels is None:
            yield f"model=oracle learns from target labels, but {target.name} has none for training"
        elif shared:
            yield (
                f"model=oracle would be tested on pictures whose labels it learned: {len(shared)} "
                f"of {target.name} are for training and for testing; type data.transductive=false"
            )

    def counts(self) -> dict[str, int]:
        """Return the number of pictures by ``domain/split``."""
        return {
            f"{role}/{split}": len(getattr(self.found[role], split))
            for role in self.roles
            for split in ("train", "val", "test")
        }

    def class_counts(self) -> list[int] | None:
        """Return the labelled training pictures of each class, or None without labels."""
        labels = self.found[self.learn_from].train.labels
        if labels is None:
            return None
        counts: list[int] = np.bincount(
            labels, minlength=len(self.found["source"].classes)
        ).tolist()
        return counts

    def fingerprint(self) -> str:
        """Return a hash of the names (or pixels) of every picture by domain and split."""
        digest = hashlib.sha256()
        for role in self.roles:
            for name in ("train", "val", "test"):
                split: Split = getattr(self.found[role], name)
                digest.update(f"{role}/{name}/{len(split)}".encode())
                digest.update("\n".join(split.names).encode(errors="surrogateescape"))
                if isinstance(split.pictures, np.ndarray):
                    digest.update(np.ascontiguousarray(split.pictures).tobytes())
        return digest.hexdigest()
