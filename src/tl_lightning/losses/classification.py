"""Losses of single-label classification, from logits and labels or label shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.distributed.ranks import rank_mean
from tl_lightning.errors import ConfigError, DataError

__all__ = ["ClassWeights", "CrossEntropy", "Focal", "balanced_weights"]

ClassWeights = Literal["balanced"] | Sequence[float] | None


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Return ``w_c = n / (K n_c)``: every class weighs the same in total, the mean weight is 1.

    Args:
        counts: Number ``n_c`` of training pictures of each of the ``K`` classes.

    Raises:
        DataError: If a class has no picture.

    >>> balanced_weights([30, 10])
    [0.6666666666666666, 2.0]
    """
    empty = [place for place, count in enumerate(counts) if not count]
    if empty:
        raise DataError(
            f"loss.class_weights=balanced divides by the pictures of each class, but class number "
            f"{empty[0]} has none in the source's training split; type loss.class_weights=null or "
            "leave the class out"
        )
    return [sum(counts) / (len(counts) * count) for count in counts]


class CrossEntropy(nn.Module):
    """Weighted cross-entropy with label smoothing, in float32.

    Of the smoothed target ``q = (1 - s) y + s / K`` and ``p = softmax(logits)``, each picture's
    loss is ``l_i = sum_c w_c q_ic (-log p_ic)``. Their sum is divided as ``torch`` divides it: for
    class indices by the sum of the weights ``w_{y_i}`` of the batch, for label shares by ``B``; of
    several ranks by the mean of their sums, so that their mean is the loss of one batch.

    Args:
        num_classes: ``K``.
        class_counts: Source training pictures of each class, or None where a checkpoint holds the
            weights.
        label_smoothing: ``s``, in [0, 1).
        class_weights: ``w``: a number above 0 a class, ``balanced`` for
            :func:`balanced_weights`, or None for 1.

    Raises:
        ConfigError: If a setting is out of its range.
        DataError: If a class to be balanced has no picture.

    >>> loss = CrossEntropy(num_classes=2, class_counts=None, label_smoothing=0.0,
    ...                     class_weights=None)
    >>> round(loss(torch.zeros(3, 2), torch.tensor([0, 1, 1])).item(), 4)  # log 2
    0.6931
    """

    weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        class_counts: Sequence[int] | None,
        label_smoothing: float,
        class_weights: ClassWeights,
    ) -> None:
        super().__init__()
        faults = self.faults(
            "loss", {"label_smoothing": label_smoothing, "class_weights": class_weights}
        )
        if faults:
            raise ConfigError(faults)
        self.label_smoothing = label_smoothing
        # In the state dict: a checkpoint knows the weights without the data they came from.
        self.register_buffer("weights", _resolve(class_weights, num_classes, class_counts))

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        found = []
        smoothing, weights = knobs["label_smoothing"], knobs["class_weights"]
        if not 0 <= smoothing < 1:
            found.append(
                f"loss.label_smoothing={smoothing} is not in [0, 1); type loss.label_smoothing=0.1"
            )
        if isinstance(weights, list | tuple) and not (weights and min(weights) > 0):
            found.append(
                f"loss.class_weights={list(weights)} must be numbers above 0, one a class; type "
                "loss.class_weights=balanced or null"
            )
        return found

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of logits ``(B, K)`` and labels ``(B,)`` or shares ``(B, K)``."""
        labels = labels.float() if labels.is_floating_point() else labels
        loss = functional.cross_entropy(
            logits.float(), labels, weight=self.weights, label_smoothing=self.label_smoothing
        )
        if self.weights is None or labels.is_floating_point():
            return loss
        total = self.weights[labels].sum()
        return loss * (total / rank_mean(total))


class Focal(CrossEntropy):
    """Cross-entropy in which each class's term is scaled by ``(1 - p_c)^gamma``.

    Lin, Goyal, Girshick, He, Dollar (2017): Focal Loss for Dense Object Detection. ICCV. Each
    picture's loss is ``sum_c w_c q_ic (1 - p_ic)^gamma (-log p_ic)``; ``gamma=0`` is
    :class:`CrossEntropy`, and sums are divided as there (the paper divides by the number of
    objects, which single-label pictures do not have).

    Args:
        gamma: Focus, at least 0.
        num_classes: As in :class:`CrossEntropy`.
        class_counts: As there.
        label_smoothing: As there.
        class_weights: As there.

    Raises:
        ConfigError: If a setting is out of its range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        class_counts: Sequence[int] | None,
        label_smoothing: float,
        class_weights: ClassWeights,
        gamma: float,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            class_counts=class_counts,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
        )
        faults = self.faults("loss", {"label_smoothing": 0, "class_weights": None, "gamma": gamma})
        if faults:
            raise ConfigError(faults)
        self.gamma = gamma

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        found = super().faults(where, knobs)
        if knobs.get("gamma", 0) < 0:
            found.append(f"loss.gamma={knobs['gamma']} is below 0; type loss.gamma=2")
        return found

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of logits ``(B, K)`` and labels ``(B,)`` or shares ``(B, K)``."""
        k = logits.shape[1]
        shares = labels.float() if labels.is_floating_point() else functional.one_hot(labels, k)
        smooth = (1 - self.label_smoothing) * shares + self.label_smoothing / k
        log_p = logits.float().log_softmax(dim=1)
        # The floor keeps the power's gradient finite where p rounds to 1.
        others = (-torch.expm1(log_p)).clamp_min(1e-12)
        weights = torch.ones_like(log_p[0]) if self.weights is None else self.weights
        terms = weights * smooth * others.pow(self.gamma) * -log_p
        shared = labels.is_floating_point()
        return terms.sum() / (len(labels) if shared else rank_mean(weights[labels].sum()))


def _resolve(wish: ClassWeights, num_classes: int, counts: Sequence[int] | None) -> Tensor | None:
    if wish is None:
        return None
    if isinstance(wish, str):
        # Without the data only the place is made: the checkpoint's own weights are loaded into it.
        return torch.tensor(balanced_weights(counts) if counts else [1.0] * num_classes)
    if len(wish) != num_classes:
        raise ConfigError(
            f"loss.class_weights has {len(wish)} numbers for {num_classes} classes; type "
            f"loss.class_weights=[...] with {num_classes} of them in the order of the labels, "
            "balanced or null"
        )
    return torch.tensor(list(wish), dtype=torch.float32)
