"""Splits by a hash of the file name, and the few labelled samples of a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tl_lightning.data.domain import Domain
from tl_lightning.data.io.folders import Complain, refuse
from tl_lightning.errors import DataError
from tl_lightning.utils.seeding import mix_text

__all__ = ["halves_by_hash", "split_by_hash", "with_labelled"]


def split_by_hash(
    names: Sequence[str],
    labels: Sequence[int],
    fraction: float,
    salt: str,
    complain: Complain = refuse,
) -> tuple[list[int], list[int]]:
    """Hold out ``ceil(fraction * n)`` samples of every class, chosen by a hash of their names.

    The choice depends on nothing but the names: not on the file system's order, the seed, the
    other classes, or where the folder lies. A class gaining a file keeps nearly all of its split.

    Args:
        names: A stable name of each sample, such as ``class/file``.
        labels: Their classes.
        fraction: Share to hold out, in (0, 1).
        salt: Different salts give independent splits.
        complain: Called with the fault if nothing would be left of a class; none of it is then
            held out.

    Returns:
        Indices of the rest and of what is held out, both ascending.

    Raises:
        DataError: If the fraction is out of range.

    >>> rest, held = split_by_hash(["a/1", "a/2", "a/3", "b/1", "b/2"], [0, 0, 0, 1, 1], 0.5, "val")
    >>> len(rest), len(held), sorted(rest + held)
    (2, 3, [0, 1, 2, 3, 4])
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(
            f"the share to hold out must lie between 0 and 1, got {fraction}; "
            "type for instance data.val_fraction=0.1"
        )
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(int(label), []).append(index)
    held: list[int] = []
    for group in members.values():
        # 0.1 * 30 must not become 4 by a rounding error in the last bit.
        number = math.ceil(fraction * len(group) - 1e-9)
        if number >= len(group):
            complain(
                f"the class of {names[group[0]]} has {len(group)} samples: nothing is left after "
                f"{number} are held out for {salt}; add some, remove the class, or set a "
                "smaller data.val_fraction"
            )
            continue
        group.sort(key=lambda index: (mix_text(salt + names[index]), names[index]))
        held += group[:number]
    chosen = set(held)
    return [index for index in range(len(names)) if index not in chosen], sorted(held)


def halves_by_hash(
    names: Sequence[str], labels: Sequence[int], salt: str
) -> tuple[list[int], list[int]]:
    """Divide every class into two disjoint halves by a hash; the first has the odd one.

    >>> halves_by_hash(["a/1", "a/2", "a/3"], [0, 0, 0], "halves")[0].__len__()
    2
    """
    second, first = split_by_hash(names, labels, 0.5, salt)
    return first, second


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
