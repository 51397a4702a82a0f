"""Checks of the domains of a data module before work starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tl_lightning.data.domain import Domain
from tl_lightning.types import SPLITS

__all__ = ["domain_problems"]


def domain_problems(
    found: Mapping[str, Domain],
    *,
    name: str | None,
    gives: str,
    batch_size: int,
    only_tested: Collection[str] = (),
) -> Iterator[str]:
    """Yield what prevents a run, such as empty or too small splits.

    Args:
        found: The domains, by ``source`` and ``target``.
        name: Name of the dataset.
        gives: What the samples are: ``images``, ``texts`` or ``vectors``.
        batch_size: Samples per domain and training batch.
        only_tested: Domains that need neither training nor validation samples.
    """
    for key, domain in found.items():
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
        if 0 < len(domain.train) < batch_size:
            yield (
                f"{key} ({domain.name}) has {len(domain.train)} training {gives}, fewer "
                f"than data.batch_size={batch_size}; set "
                f"data.batch_size={len(domain.train)} or less"
            )


#: The setting that determines the size of a split.
_FRACTIONS = {"train": "test_fraction", "val": "val_fraction", "test": "test_fraction"}
