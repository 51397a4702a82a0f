"""L2-SP: the backbone stays near its pretrained weights, the head near 0.

Li, Grandvalet, Davoine (2018): Explicit Inductive Bias for Transfer Learning with Convolutional
Networks. ICML.
"""

from __future__ import annotations

from torch import nn

from tl_lightning.regularizers.base import Regularizer, squares
from tl_lightning.types import Terms, Views

__all__ = ["L2SP"]


class L2SP(Regularizer):
    """``alpha / 2 * ||w_S - w_S^0||^2 + beta / 2 * ||w_new||^2``.

    ``w_S`` are all learning parameters of the backbone (also biases and normalisation), ``w_S^0``
    the same where the run began, ``w_new`` all learning parameters of the head.

    Args:
        backbone: As in :class:`Regularizer`; its weights now are ``w_S^0``.
        task: As there.
        alpha: Pull towards the start, at least 0.
        beta: Pull of the head towards 0, at least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, alpha: float, beta: float) -> None:
        super().__init__(backbone=backbone, task=task, alpha=alpha, beta=beta)
        self.alpha = alpha
        self.beta = beta
        # Not in the state dict: a resumed run builds them again from the same pretrained weights.
        for place, value in enumerate(backbone.parameters() if alpha else ()):
            self.register_buffer(f"start_{place}", value.detach().clone(), persistent=False)

    def forward(self, views: Views) -> Terms:
        """Return ``{"l2_sp": pull to the start, "l2_sp_head": pull to 0}``."""
        backbone, task = self.parts
        pairs = zip(backbone.parameters(), self.buffers(), strict=True) if self.alpha else ()
        moved = [now.float() - start.float() for now, start in pairs if now.requires_grad]
        new = [w for w in task.parameters() if w.requires_grad] if self.beta else []
        terms = {}
        if moved:
            terms["l2_sp"] = 0.5 * self.alpha * squares(moved)
        if new:
            terms["l2_sp_head"] = 0.5 * self.beta * squares(new)
        return terms
