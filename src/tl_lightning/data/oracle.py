"""Checks of the upper bound that is trained on target labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tl_lightning.data.domain import Domain

__all__ = ["oracle_problems"]


def oracle_problems(learn_from: str, found: Mapping[str, Domain]) -> Iterator[str]:
    """Yield reasons why a model cannot be trained on the labels of the target.

    Args:
        learn_from: Domain whose labels are learned; nothing is wrong with ``source``.
        found: The domains.
    """
    target = found.get("target")
    if learn_from == "source" or target is None:
        return
    shared = set(target.train.names) & set(target.test.names)
    if target.train.labels is None:
        yield f"model=oracle learns target labels, but {target.name} has none; set model=dann"
    elif len(target.classes) > len(found["source"].classes):
        yield (
            "model=oracle learns the labels of the target, but those of its unknown classes are "
            "only for testing (data.target.classes); set model=dann, or remove oracle from "
            "baselines"
        )
    elif shared:
        yield (
            f"model=oracle would be tested on its own training samples: {len(shared)} of "
            f"{target.name} are in both splits; set data.transductive=false"
        )
