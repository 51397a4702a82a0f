"""Pseudo-labels of a weak view for a strong view of the same samples."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["pseudo_label_loss"]


def pseudo_label_loss(strong: Tensor, labels: Tensor, confident: Tensor) -> Tensor:
    """Return the mean cross-entropy of confident samples; the others count as 0 in the mean.

    Args:
        strong: Logits of the strong view ``(B, K)``.
        labels: Pseudo-labels ``(B,)``.
        confident: Which of them are used ``(B,)``, bool.
    """
    losses = functional.cross_entropy(strong, labels, reduction="none")
    return (losses * confident).mean()
