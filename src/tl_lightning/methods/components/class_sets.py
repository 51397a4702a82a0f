"""Base classes of the methods for targets with other classes than the source."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tl_lightning.methods.base import Method

__all__ = ["RecognisesUnknown", "WeighsClasses", "uses_weights"]


class RecognisesUnknown(Method):
    """A method that says which target samples are of no class of the source."""

    def unknown_scores(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the probability ``(B,)`` that a target sample is of no class.

        Args:
            features: ``(B, D)``.
            logits: ``(B, K)``.
        """
        raise NotImplementedError

    def fit_start(self, features: Tensor, labels: Tensor, seed: int) -> None:
        """Fit own classifiers to the source before training, if the head was fitted to it.

        Args:
            features: Inputs of the fitted head's classifier ``(N, D)``.
            labels: ``(N,)``.
            seed: Seed of the order of the samples.
        """


class WeighsClasses(Method):
    """A method that weights the source's samples by their class, in all losses of the source."""

    uses_weights: ClassVar[bool] = True
    #: Source samples of each class ``(K,)``, as often as they are trained on; None: equally many.
    class_counts: Tensor | None = None

    def source_weights(self, labels: Tensor) -> Tensor:
        """Return the weights ``(B,)``, with mean 1, of source samples with these labels."""
        raise NotImplementedError


def uses_weights(cls: type[Method]) -> bool:
    """Return whether a method's own comparison of the domains uses such weights."""
    return bool(getattr(cls, "uses_weights", False))
