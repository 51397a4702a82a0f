"""SHOT: adaptation without the source, under the source's classifier.

Liang, Hu, Feng (2020): Do We Really Need to Access the Source Data? Source Hypothesis Transfer for
Unsupervised Domain Adaptation. ICML.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.methods.base import Bank, Penalty
from tl_lightning.methods.entropy import mean_entropy
from tl_lightning.types import Context, Views

__all__ = ["SHOT", "centroid_labels"]


def centroid_labels(features: Tensor, logits: Tensor, rounds: int) -> Tensor:
    """Return a class for every sample by the nearest class centre (cosine), ``(N,)``.

    The first centres weigh samples by their predicted probabilities, those of later rounds by the
    classes just found. A class that is nobody's likeliest has no centre; the authors' code leaves
    such classes out too.

    Args:
        features: ``(N, D)``.
        logits: ``(N, K)``.
        rounds: How often centres are found.
    """
    # As in the authors' code a constant joins the features, so that their length counts a little.
    ones = torch.ones(len(features), 1, dtype=features.dtype, device=features.device)
    points = functional.normalize(torch.cat([features, ones], dim=1), dim=1)
    shares = logits.softmax(1)
    k = shares.shape[1]
    labels = shares.argmax(1)
    for _ in range(rounds):
        held = functional.one_hot(labels, k).sum(0) > 0
        centres = functional.normalize(shares.T @ points, dim=1)
        near = points @ centres.T
        labels = near.masked_fill(~held, -torch.inf).argmax(1)
        shares = functional.one_hot(labels, k).to(points.dtype)
    return labels


class SHOT(Penalty):
    """Sure and diverse predictions under a fixed classifier, and labels from class centres.

    ``H(p) mean - H(mean p) + beta CE(centroid label)``. Centres are those of the whole target at
    the start of each epoch. Made for ``model=source_free``.

    Args:
        beta: Weight of the centres' labels.
        rounds: How often centres are found an epoch.
        kwargs: As in :class:`Penalty`.
    """

    reads = frozenset({"target"})
    source_free = True
    uses_bank = True

    def __init__(self, *, beta: float, rounds: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = beta
        self.rounds = rounds
        self.labels: Tensor | None = None

    def get_extra_state(self) -> Tensor:
        """Return the labels of this epoch, for a run that is resumed within it."""
        return torch.empty(0, dtype=torch.long) if self.labels is None else self.labels.cpu()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with them."""
        self.labels = state if len(state) else None

    def prepare(self, backbone: nn.Module, task: nn.Module) -> None:
        """Fix the classifier: the source's hypothesis."""
        task.get_submodule("head.classifier").requires_grad_(False)

    def begin_epoch(self, bank: Bank) -> None:
        """Find the labels of this epoch."""
        self.labels = centroid_labels(bank.features, bank.logits, self.rounds)

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the loss of the target's logits ``(B, K)``."""
        target = views["target"]
        mean = target.logits.softmax(1).mean(0)
        total: Tensor = mean_entropy(target.logits) - torch.special.entr(mean).sum()
        if self.beta == 0:
            return total
        assert self.labels is not None
        assert target.index is not None
        return total + self.beta * functional.cross_entropy(
            target.logits, self.labels.to(target.index.device)[target.index]
        )
