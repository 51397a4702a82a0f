"""Dataset summary: notes, counts and fingerprint for the report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from tl_lightning.data.domain import DOMAINS, Domain, Split
from tl_lightning.data.pretraining_overlap import pretraining_overlap

__all__ = ["LabelInfo"]

SHOWN = 5


class LabelInfo:
    """Mixin that describes the domains of a data module."""

    #: Overlap of the dataset with pretraining data, as text; empty if none is known.
    overlap: ClassVar[str] = ""
    found: dict[str, Domain]
    learn_from: str
    unreadable: dict[str, list[str]]

    @property
    def roles(self) -> list[str]:
        """The domains of the data module, source first."""
        return [role for role in DOMAINS if role in self.found]

    def notes(self, pretrained: bool) -> list[str]:
        """Return the notes on the data to show in the report.

        Args:
            pretrained: Whether the backbone is pretrained, so that overlap matters.
        """
        found = [f"{role}: {self.found[role].note}" for role in self.roles if self.found[role].note]
        names = [name for domain in self.found.values() for name in domain.train.names]
        overlap = pretraining_overlap(names, self.overlap) if pretrained else ""
        if overlap:
            found.append(overlap)
        for role, problems in self.unreadable.items():
            more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            found.append(
                f"{role}: {len(problems)} unreadable image(s) skipped: "
                f"{', '.join(problems[:SHOWN])}{more}"
            )
        return found

    def domain_of(self, stream: str) -> str:
        """Return the domain that a stream of training batches draws from."""
        return self.learn_from if stream == "source" else stream

    def oracle_problems(self, found: Mapping[str, Domain]) -> Iterator[str]:
        """Yield reasons why the oracle cannot train on the labels of the target."""
        target = found.get("target")
        if self.learn_from == "source" or target is None:
            return
        shared = set(target.train.names) & set(target.test.names)
        if target.train.labels is None:
            yield f"model=oracle needs labelled training samples, but {target.name} has none"
        elif shared:
            yield (
                f"model=oracle would be tested on its own training samples: {len(shared)} of "
                f"{target.name} are in both splits; set data.transductive=false"
            )

    def counts(self) -> dict[str, int]:
        """Return the number of samples by ``domain/split``."""
        return {
            f"{role}/{split}": len(getattr(self.found[role], split))
            for role in self.roles
            for split in ("train", "val", "test")
        }

    def class_counts(self) -> list[int] | None:
        """Return the number of labelled training samples per class, or None without labels."""
        labels = self.found[self.learn_from].train.labels
        if labels is None:
            return None
        counts: list[int] = np.bincount(
            labels, minlength=len(self.found["source"].classes)
        ).tolist()
        return counts

    def fingerprint(self) -> str:
        """Return a hash of the names (and in-memory values) of all samples by domain and split."""
        digest = hashlib.sha256()
        for role in self.roles:
            for name in ("train", "val", "test"):
                split: Split = getattr(self.found[role], name)
                digest.update(f"{role}/{name}/{len(split)}".encode())
                digest.update("\n".join(split.names).encode(errors="surrogateescape"))
                if isinstance(split.samples, np.ndarray):
                    digest.update(np.ascontiguousarray(split.samples).tobytes())
        return digest.hexdigest()
