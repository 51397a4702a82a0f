"""Outputs of a model on the whole target, which some methods process at the start of an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["TargetBank"]


@dataclass(frozen=True)
class TargetBank:
    """Model outputs on the whole target training split, computed at the start of an epoch.

    Attributes:
        features: ``(N, D)`` in float32, computed in evaluation mode.
        logits: ``(N, K)``, likewise.
        temperature: Calibrates the logits on source validation; 1 unless a method weights classes.
        trained: Whether the head was trained on labels before the bank was computed.
    """

    features: Tensor
    logits: Tensor
    temperature: float = 1.0
    trained: bool = True
