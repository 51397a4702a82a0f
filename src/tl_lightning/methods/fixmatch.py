"""FixMatch: confident pseudo-labels of a weak view for a strong view.

Sohn, Berthelot, Li, Zhang, Carlini, Cubuk, Kurakin, Zhang, Raffel (2020): FixMatch: Simplifying
Semi-Supervised Learning with Consistency and Confidence. NeurIPS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.pseudo_labels import pseudo_label_loss
from tl_lightning.types import Context, Views

__all__ = ["FixMatch"]


class FixMatch(Penalty):
    """Cross-entropy of the strong view with the model's own confident pseudo-labels.

    The paper has seven times as many unlabelled samples as labelled ones in a batch, and tests a
    moving average of the weights (``callbacks=ema``); here both streams have the same batch size.

    Args:
        threshold: Minimum confidence in the weak view; other samples count as 0 in the batch mean.
        kwargs: As in :class:`Penalty`.
    """

    extra_views = frozenset({"target_strong"})
    required_domains = frozenset({"target"})

    def __init__(self, *, threshold: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield one message for each invalid setting."""
        yield from super().check_config(where, params)
        if not 0 <= params["threshold"] <= 1:
            yield (
                f"{where}.threshold={params['threshold']} is not a confidence in [0, 1]; set "
                f"{where}.threshold=0.95"
            )

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the mean loss for the strong view's logits ``(B, K)``."""
        confidence, labels = views["target"].logits.detach().softmax(1).max(1)
        confident = confidence >= self.threshold
        ctx.log("sure", confident.float().mean())
        return pseudo_label_loss(views["target_strong"].logits, labels, confident)
