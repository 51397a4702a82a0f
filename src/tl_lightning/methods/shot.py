"""SHOT: source-free adaptation with a fixed source classifier.

Liang, Hu, Feng (2020): Do We Really Need to Access the Source Data? Source Hypothesis Transfer for
Unsupervised Domain Adaptation. ICML.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.methods.base import Penalty, TargetBank
from tl_lightning.methods.entropy import mean_entropy
from tl_lightning.types import Context, Views

__all__ = ["SHOT", "centroid_labels"]


def centroid_labels(features: Tensor, logits: Tensor, rounds: int) -> Tensor:
    """Return pseudo-labels ``(N,)``: the class of the nearest centroid by cosine similarity.

    In the first round, centroids are weighted by the predicted probabilities, in later rounds by
    the pseudo-labels of the previous round. A class that is not the most likely one for any sample
    has no centroid, as in the authors' code.

    Args:
        features: ``(N, D)``.
        logits: ``(N, K)``.
        rounds: Number of times the centroids are computed.
    """
    # As in the authors' code, appending a constant retains some information on the feature norm.
    ones = torch.ones(len(features), 1, dtype=features.dtype, device=features.device)
    points = functional.normalize(torch.cat([features, ones], dim=1), dim=1)
    weights = logits.softmax(1)
    k = weights.shape[1]
    labels = weights.argmax(1)
    for _ in range(rounds):
        occurs = functional.one_hot(labels, k).sum(0) > 0
        centroids = functional.normalize(weights.T @ points, dim=1)
        similarity = points @ centroids.T
        labels = similarity.masked_fill(~occurs, -torch.inf).argmax(1)
        weights = functional.one_hot(labels, k).to(points.dtype)
    return labels


class SHOT(Penalty):
    """Information maximisation with a fixed classifier, plus centroid pseudo-labels.

    The loss is ``mean H(p) - H(mean p) + beta CE(pseudo-label)``. Centroids are computed on the
    whole target at the start of each epoch. Intended for ``model=source_free``.

    Args:
        beta: Weight of the cross-entropy with the pseudo-labels.
        rounds: Number of centroid updates per epoch.
        kwargs: As in :class:`Penalty`.
    """

    required_domains = frozenset({"target"})
    source_free = True
    uses_target_bank = True

    def __init__(self, *, beta: float, rounds: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = beta
        self.rounds = rounds
        self.labels: Tensor | None = None

    def get_extra_state(self) -> Tensor:
        """Return this epoch's pseudo-labels, for runs resumed in the middle of an epoch."""
        return torch.empty(0, dtype=torch.long) if self.labels is None else self.labels.cpu()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the pseudo-labels."""
        self.labels = state if len(state) else None

    def modify_network(self, backbone: nn.Module, task: nn.Module) -> None:
        """Freeze the classifier (the source hypothesis)."""
        task.get_submodule("head.classifier").requires_grad_(False)

    def begin_epoch(self, bank: TargetBank) -> None:
        """Compute this epoch's pseudo-labels."""
        self.labels = centroid_labels(bank.features, bank.logits, self.rounds)

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the loss for the target logits ``(B, K)``."""
        target = views["target"]
        mean = target.logits.softmax(1).mean(0)
        total: Tensor = mean_entropy(target.logits) - torch.special.entr(mean).sum()
        if self.beta == 0:
            return total
        if self.labels is None:
            raise ValueError("SHOT needs pseudo-labels; call begin_epoch with a TargetBank first")
        index = target.require("index")
        labels = self.labels.to(index.device)[index]
        return total + self.beta * functional.cross_entropy(target.logits, labels)
