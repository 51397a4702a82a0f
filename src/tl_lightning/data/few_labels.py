"""Semi-supervised learning within one domain: few training samples keep their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tl_lightning.data.domain import Domain
from tl_lightning.errors import DataError
from tl_lightning.utils.seeding import mix_text

__all__ = ["few_labels"]

SETTING = "data.labelled_per_class"


def few_labels(found: Mapping[str, Domain], count: int | None) -> dict[str, Domain]:
    """Return the source with few labels, and all of its training samples without, as a target.

    Validation and test samples of both are the same. The labels of the other training samples are
    removed here, so that nothing can use them.

    Args:
        found: The domains of a data module.
        count: Labelled training samples of each class, chosen by their names; None: all.

    Raises:
        DataError: If the count is not valid, a class has too few samples, or there is a target.
    """
    if count is None:
        return dict(found)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise DataError(f"{SETTING}={count} must be at least 1; set {SETTING}=4, or null for all")
    if "target" in found:
        raise DataError(
            f"{SETTING}={count} trains on the other samples of the source without labels, but "
            f"there is a target, {found['target'].name}; set data.target=null, or for labels of "
            "the target data.target.labelled_per_class"
        )
    source = found["source"]
    chosen = _chosen(source, count)
    name = f"{source.name}, unlabelled"
    note = (
        f"{SETTING}={count}: {len(chosen):,} of {len(source.train):,} training samples are used "
        "with labels, and all of them without; validation and test are the same for both"
    )
    labelled = replace(source, train=source.train.subset(chosen))
    unlabelled = replace(source, name=name, train=source.train.without_labels(), note=note)
    return {"source": labelled, "target": unlabelled}


def _chosen(source: Domain, count: int) -> list[int]:
    names, labels = source.train.names, source.train.labels
    assert labels is not None
    order = sorted(range(len(names)), key=lambda k: mix_text(f"labelled{names[k]}"))
    chosen: list[int] = []
    for label, name in enumerate(source.classes):
        own = [k for k in order if labels[k] == label]
        if len(own) < count:
            raise DataError(
                f"{SETTING}={count}, but class {name!r} has {len(own)} training samples; set "
                f"{SETTING}={len(own)} or less"
            )
        chosen += own[:count]
    return sorted(chosen)
