"""Classification losses for class indices or soft labels."""

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
    """Return ``w_c = n / (K n_c)``: all classes have the same total weight, the mean weight is 1.

    Args:
        counts: Number ``n_c`` of training samples of each of the ``K`` classes.

    Raises:
        DataError: If a class has no samples.

    >>> balanced_weights([30, 10])
    [0.6666666666666666, 2.0]
    """
    empty = [index for index, count in enumerate(counts) if not count]
    if empty:
        raise DataError(
            "loss.class_weights=balanced requires samples of every class, but class number "
            f"{empty[0]} has none in the source's training split; set loss.class_weights=null or "
            "remove the class"
        )
    return [sum(counts) / (len(counts) * count) for count in counts]


class CrossEntropy(nn.Module):
    """Weighted cross-entropy with label smoothing, computed in float32.

    With smoothed labels ``q = (1 - s) y + s / K`` and ``p = softmax(logits)``, the loss of a sample
    is ``l_i = sum_c w_c q_ic (-log p_ic)``. As in ``torch``, the sum over the batch is divided by
    the sum of the weights ``w_{y_i}`` for class indices and by ``B`` for soft labels. With several
    ranks, the weight sums are averaged, so that the mean over ranks is the loss of the whole batch.

    Args:
        num_classes: ``K``.
        class_counts: Number of source training samples of each class, or None if the weights are
            loaded from a checkpoint.
        label_smoothing: ``s``, in [0, 1).
        class_weights: Weights ``w``: one positive number per class, ``balanced`` for
            :func:`balanced_weights`, or None for 1.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: If a class has no samples with ``balanced`` weights.

    >>> loss = CrossEntropy(num_classes=2, class_counts=None, label_smoothing=0.0,
    ...                     class_weights=None)
    >>> round(loss(torch.zeros(3, 2), torch.tensor([0, 1, 1])).item(), 4)  # log 2
    0.6931
    """

    #: Whether ``forward`` takes weights of the samples.
    takes_weights = True
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
        problems = self.check_config(
            "loss", {"label_smoothing": label_smoothing, "class_weights": class_weights}
        )
        if problems:
            raise ConfigError(problems)
        self.label_smoothing = label_smoothing
        # A buffer, so that the weights can be loaded from a checkpoint without the data.
        self.register_buffer("weights", _resolve(class_weights, num_classes, class_counts))

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message for each invalid setting."""
        problems = []
        smoothing, weights = params["label_smoothing"], params["class_weights"]
        if not 0 <= smoothing < 1:
            problems.append(
                f"loss.label_smoothing={smoothing} must be in [0, 1); set loss.label_smoothing=0.1"
            )
        if isinstance(weights, list | tuple) and not (weights and min(weights) > 0):
            problems.append(
                f"loss.class_weights={list(weights)} must be positive numbers, one per class; set "
                "loss.class_weights=balanced or null"
            )
        return problems

    def forward(self, logits: Tensor, labels: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return the mean loss of logits ``(B, K)`` and class indices ``(B,)`` or soft labels.

        ``samples`` are weights of the samples ``(B,)``, on top of those of their classes.
        """
        if samples is not None:
            return self._weighted(logits, labels, samples)
        labels = labels.float() if labels.is_floating_point() else labels
        loss = functional.cross_entropy(
            logits.float(), labels, weight=self.weights, label_smoothing=self.label_smoothing
        )
        if self.weights is None or labels.is_floating_point():
            return loss
        total = self.weights[labels].sum()
        return loss * (total / rank_mean(total))

    def _weighted(self, logits: Tensor, labels: Tensor, samples: Tensor) -> Tensor:
        losses = functional.cross_entropy(
            logits.float(), labels, self.weights, label_smoothing=self.label_smoothing,
            reduction="none",
        )  # fmt: skip
        total = samples if self.weights is None else samples * self.weights[labels]
        return (losses * samples).sum() / rank_mean(total.sum()).clamp_min(1e-12)


class Focal(CrossEntropy):
    """Focal loss: cross-entropy with each class's term scaled by ``(1 - p_c)^gamma``.

    Lin, Goyal, Girshick, He, Dollar (2017): Focal Loss for Dense Object Detection. ICCV. The loss
    of a sample is ``sum_c w_c q_ic (1 - p_ic)^gamma (-log p_ic)``. ``gamma=0`` is equivalent to
    :class:`CrossEntropy`, and the sum over the batch is divided in the same way (the paper divides
    by the number of objects, which does not apply to single-label classification).

    Args:
        gamma: Focusing parameter, at least 0.
        num_classes: As in :class:`CrossEntropy`.
        class_counts: As in :class:`CrossEntropy`.
        label_smoothing: As in :class:`CrossEntropy`.
        class_weights: As in :class:`CrossEntropy`.

    Raises:
        ConfigError: If a setting is out of range.
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
        problems = self.check_config(
            "loss", {"label_smoothing": 0, "class_weights": None, "gamma": gamma}
        )
        if problems:
            raise ConfigError(problems)
        self.gamma = gamma

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message for each invalid setting."""
        problems = super().check_config(where, params)
        if params.get("gamma", 0) < 0:
            problems.append(f"loss.gamma={params['gamma']} must be at least 0; set loss.gamma=2")
        return problems

    def forward(self, logits: Tensor, labels: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return the mean loss, see :meth:`CrossEntropy.forward`."""
        k = logits.shape[1]
        soft = labels.is_floating_point()
        probs = labels.float() if soft else functional.one_hot(labels, k)
        smooth = (1 - self.label_smoothing) * probs + self.label_smoothing / k
        log_p = logits.float().log_softmax(dim=1)
        # Clamping keeps the gradient of the power finite if p rounds to 1.
        others = (-torch.expm1(log_p)).clamp_min(1e-12)
        weights = torch.ones_like(log_p[0]) if self.weights is None else self.weights
        terms = weights * smooth * others.pow(self.gamma) * -log_p
        if samples is not None:
            total = rank_mean((weights[labels] * samples).sum()).clamp_min(1e-12)
            return (terms.sum(1) * samples).sum() / total
        return terms.sum() / (len(labels) if soft else rank_mean(weights[labels].sum()))


def _resolve(weights: ClassWeights, k: int, counts: Sequence[int] | None) -> Tensor | None:
    if weights is None:
        return None
    if isinstance(weights, str):
        # Without the data, a placeholder: the weights are then loaded from the checkpoint.
        return torch.tensor(balanced_weights(counts) if counts else [1.0] * k)
    if len(weights) != k:
        raise ConfigError(
            f"loss.class_weights has {len(weights)} numbers for {k} classes; set "
            f"loss.class_weights=[...] with {k} numbers in class order, balanced or null"
        )
    return torch.tensor(list(weights), dtype=torch.float32)
