"""A target of which a few training pictures keep their labels."""

from __future__ import annotations

from dataclasses import replace

from tl_lightning.data.dataset import Domain
from tl_lightning.data.seeds import mix_text
from tl_lightning.errors import DataError

__all__ = ["with_labelled"]


def with_labelled(domain: Domain, count: int, transductive: bool = False) -> Domain:
    """Take ``count`` labelled pictures a class out of the target's training pictures.

    Args:
        domain: The target.
        count: At least 1; which pictures is a matter of their names alone.
        transductive: Whether it is tested on its training pictures: then not on the labelled ones.

    Raises:
        DataError: If it is no count, or a class has too few.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise DataError(
            f"data.target.labelled_per_class={count} is no count of samples; type 0, 1, 3, ..."
        )
    labels = domain.train.labels
    assert labels is not None
    names = domain.train.names
    order = sorted(range(len(labels)), key=lambda i: mix_text(f"labelled{names[i]}"))
    chosen: list[int] = []
    for label, name in enumerate(domain.classes):
        own = [i for i in order if labels[i] == label]
        if len(own) <= count:
            raise DataError(
                f"data.target.labelled_per_class={count}, but class {name!r} of the target "
                f"({domain.name}) has {len(own)} training samples; "
                f"type data.target.labelled_per_class={max(0, len(own) - 1)} or less"
            )
        chosen += own[:count]
    kept = sorted(chosen)
    rest = sorted(set(range(len(labels))) - set(kept))
    note = f"{count} labelled target samples a class train with their labels"
    labelled = domain.train.subset(kept)
    if transductive:  # they must not be tested on
        test = domain.test
        outside = [i for i, n in enumerate(test.names) if n not in set(labelled.names)]
        domain = replace(domain, test=test.subset(outside))
    return replace(
        domain,
        train=domain.train.subset(rest),
        labelled=labelled,
        note="; ".join(part for part in (note, domain.note) if part),
    )
