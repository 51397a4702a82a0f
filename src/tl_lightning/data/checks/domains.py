"""Checks of the domains of a data module before work starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from tl_lightning.data.domain import Domain
from tl_lightning.data.io.labels import similar_names
from tl_lightning.types import SPLITS
from tl_lightning.utils.text import shorten

__all__ = ["class_remarks", "domain_problems"]


def domain_problems(
    found: Mapping[str, Domain],
    *,
    name: str | None,
    gives: str,
    only_tested: Collection[str] = (),
    classes: bool = True,
) -> Iterator[str]:
    """Yield what prevents a run, such as empty or too small splits.

    Args:
        found: The domains, by ``source`` and ``target``.
        name: Name of the dataset.
        gives: What the samples are: ``images``, ``texts`` or ``vectors``.
        only_tested: Domains that need neither training nor validation samples.
        classes: Whether the labels are classes.
    """
    for key, domain in found.items() if classes else ():
        if len(domain.classes) == 1:
            yield (
                f"{key} ({domain.name}) has only the class {domain.classes[0]!r}, but a "
                f"classifier needs at least two; check the settings of data={name}"
            )
            return
    for key, domain in found.items():
        for split in ("test",) if key in only_tested else SPLITS:
            if len(domain.splits()[split]) == 0:
                yield (
                    f"{key} ({domain.name}) has no {gives} in the {split} split; "
                    f"add some, or change data.{key} or data.{_FRACTIONS[split]}"
                )


def class_remarks(key: str, domain: Domain) -> Iterator[str]:
    """Yield what is odd about the classes of a domain, though a run is possible."""
    for group in similar_names(domain.classes):
        yield (
            f"classes of {key} that differ only in case or spaces: "
            f"{', '.join(map(repr, group))}; are they the same class?"
        )
    train, test = domain.train.labels, domain.test.labels
    if train is None or test is None or not len(train):
        return
    trained, tested = (np.bincount(one, minlength=len(domain.classes)) for one in (train, test))
    if domain.labelled is not None and domain.labelled.labels is not None:
        trained += np.bincount(domain.labelled.labels, minlength=len(domain.classes))
    only = [k for k, name in enumerate(domain.classes) if tested[k] and not trained[k]]
    if only:
        shown = shorten([f"{domain.classes[k]} ({tested[k]} test samples)" for k in only])
        yield (
            f"{len(only)} of {len(domain.classes)} classes of {key} have no training samples, so "
            f"that they are never predicted: {shown}"
        )


#: The setting that determines the size of a split.
_FRACTIONS = {"train": "test_fraction", "val": "val_fraction", "test": "test_fraction"}
