"""LightningModule for domain generalization: the target is not part of training in any way."""

from __future__ import annotations

from typing import Any, ClassVar

from tl_lightning.models.adaptation import DomainAdaptation

__all__ = ["DomainGeneralization"]


class DomainGeneralization(DomainAdaptation):
    """Trains on one or several labelled sources; the target is only tested.

    No target sample takes part in training, in validation or in the selection of the model, not
    even without its label, and all target samples are tested (its test split if it has one).

    Args:
        full_data: Whether to train on the source's validation samples as well; the model of the
            last epoch is then used, as there is nothing left to select by.
        kwargs: As in :class:`DomainAdaptation`; the methods need only the source.
    """

    train_on: ClassVar[tuple[str, ...]] = ("source",)
    unseen: ClassVar[frozenset[str]] = frozenset({"target"})

    def __init__(self, *, full_data: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.full_data = full_data
