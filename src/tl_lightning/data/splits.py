"""Splits by a hash of the sample names, and few-shot target samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tl_lightning.data.domain import Domain
from tl_lightning.data.io.folders import OnProblem, raise_problem
from tl_lightning.errors import DataError
from tl_lightning.utils.seeding import mix_text

__all__ = ["halves_by_hash", "split_by_hash", "with_labelled"]


def split_by_hash(
    names: Sequence[str],
    labels: Sequence[int],
    fraction: float,
    salt: str,
    on_problem: OnProblem = raise_problem,
) -> tuple[list[int], list[int]]:
    """Hold out ``ceil(fraction * n)`` samples of every class, chosen by a hash of their names.

    The split depends only on the names, not on the order of the file system, the seed, the other
    classes or the location of the folder. Adding a file to a class hardly changes its split.

    Args:
        names: Stable name of each sample, such as ``class/file``.
        labels: Class index of each sample.
        fraction: Fraction to hold out, in (0, 1).
        salt: Different salts give independent splits; ``test`` and ``val`` are also the names of
            the splits in messages.
        on_problem: Called for each class with too few samples, of which none is then held out.

    Returns:
        Ascending indices of the remaining and of the held-out samples.

    Raises:
        DataError: If the fraction is out of range.

    >>> rest, held = split_by_hash(["a/1", "a/2", "a/3", "b/1", "b/2"], [0, 0, 0, 1, 1], 0.5, "val")
    >>> len(rest), len(held), sorted(rest + held)
    (2, 3, [0, 1, 2, 3, 4])
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(
            f"data.{salt}_fraction={fraction} is not a fraction above 0 and below 1 of the "
            f"training samples; set for example data.{salt}_fraction=0.1"
        )
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(int(label), []).append(index)
    held: list[int] = []
    for group in members.values():
        # Tolerance for rounding errors: ceil(0.1 * 30) must be 3.
        number = math.ceil(fraction * len(group) - 1e-9)
        if number >= len(group):
            advice = "or remove the class"
            if len(group) > 1:
                advice = f"remove the class, or set a smaller data.{salt}_fraction"
            on_problem(
                f"the class of {names[group[0]]} has only {len(group)} sample(s), and none is left "
                f"after holding out {number} for {salt}; add samples (a class needs one each for "
                f"training, validation and testing), {advice}"
            )
            continue
        group.sort(key=lambda index: (mix_text(salt + names[index]), names[index]))
        held += group[:number]
    chosen = set(held)
    return [index for index in range(len(names)) if index not in chosen], sorted(held)


def halves_by_hash(
    names: Sequence[str], labels: Sequence[int], salt: str
) -> tuple[list[int], list[int]]:
    """Split every class into disjoint halves by a hash; the first gets the odd sample.

    >>> halves_by_hash(["a/1", "a/2", "a/3"], [0, 0, 0], "halves")[0].__len__()
    2
    """
    second, first = split_by_hash(names, labels, 0.5, salt)
    return first, second


def with_labelled(domain: Domain, count: int, transductive: bool = False) -> Domain:
    """Move ``count`` samples per class from the training split of the target to ``labelled``.

    Args:
        domain: The target domain.
        count: Number of samples per class; the choice depends only on the sample names.
        transductive: Whether to remove the labelled samples from the test split, too.

    Raises:
        DataError: If ``count`` is invalid or a class has too few samples.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise DataError(
            f"data.target.labelled_per_class={count} is not a valid number of samples; "
            "set data.target.labelled_per_class=0, 1, 3, ..."
        )
    labels = domain.train.labels
    if labels is None:
        raise DataError(
            f"data.target.labelled_per_class={count} needs labels, but the training samples of the "
            f"target ({domain.name}) have none; set data.target.labelled_per_class=0, or put them "
            "in class folders"
        )
    names = domain.train.names
    order = sorted(range(len(labels)), key=lambda i: mix_text(f"labelled{names[i]}"))
    chosen: list[int] = []
    for label, name in enumerate(domain.classes):
        own = [i for i in order if labels[i] == label]
        if len(own) <= count:
            raise DataError(
                f"data.target.labelled_per_class={count}, but class {name!r} of the target "
                f"({domain.name}) has {len(own)} training samples; "
                f"set data.target.labelled_per_class={max(0, len(own) - 1)} or less"
            )
        chosen += own[:count]
    kept = sorted(chosen)
    rest = sorted(set(range(len(labels))) - set(kept))
    note = f"{count} few-shot target sample(s) per class, trained with their labels"
    labelled = domain.train.subset(kept)
    if transductive:
        test = domain.test
        outside = [i for i, n in enumerate(test.names) if n not in set(labelled.names)]
        domain = replace(domain, test=test.subset(outside))
    return replace(
        domain,
        train=domain.train.subset(rest),
        labelled=labelled,
        note="; ".join(part for part in (note, domain.note) if part),
    )
