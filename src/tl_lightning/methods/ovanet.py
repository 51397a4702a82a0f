"""OVANet: one-versus-all classifiers that recognise samples of no class of the source.

Saito, Saenko (2021): OVANet: One-vs-All Network for Universal Domain Adaptation. ICCV.
arXiv:2104.03344.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.methods.base import Penalty
from tl_lightning.methods.components.class_sets import RecognisesUnknown
from tl_lightning.schedules import Cosine
from tl_lightning.types import Context, Views

__all__ = ["OVANet", "hard_negative_loss", "open_set_entropy"]

#: Fit of the classifiers before training: steps, batch size, learning rate and weight decay.
STEPS, BATCH, RATE, DECAY = 500, 128, 1e-3, 1e-2


def hard_negative_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``-log p_y - min_{j != y} log(1 - p_j)`` of each sample, ``(B,)``.

    ``p_j = sigmoid(logits_j)`` is the probability that the sample is of class j rather than of any
    other; of the other classes, only the most likely one counts.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)``.
    """
    own = functional.one_hot(labels, logits.shape[1]).bool()
    positive = functional.softplus(-logits.gather(1, labels[:, None]).squeeze(1))
    negative = functional.softplus(logits).masked_fill(own, 0.0).amax(1)
    return positive + negative


def open_set_entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of the one-versus-all classifiers with logits ``(B, K)``."""
    p = torch.sigmoid(logits)
    return (p * functional.softplus(-logits) + (1 - p) * functional.softplus(logits)).mean()


class OVANet(Penalty, RecognisesUnknown):
    """One-versus-all classifiers, with open-set entropy minimisation on the target.

    The term is ``hard negative loss / 2`` on the source, as in the authors' code, plus ``entropy``
    times the open-set entropy of the target. A target sample is of no class if the classifier of
    its predicted class says so. Where the authors' classifiers have two logits, these have their
    difference.

    If the head starts as a probe, so do the classifiers: they are fitted to the source's features,
    without the target's entropy, which makes undecided classifiers certain at random. The threshold
    is ``rejection_threshold`` instead of the authors' 0.5, since a shift of the domains lowers all
    probabilities; 0.5 can be set.

    Args:
        entropy: Weight of the target's entropy, ``lambda`` of the paper.
        kwargs: As in :class:`Penalty`.
    """

    uses_weights = True

    def __init__(self, *, entropy: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.entropy = entropy
        self.classifiers = nn.Linear(self.in_features, self.num_classes)

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the loss for source and target features ``(B, D)``."""
        source = views["source"]
        losses = hard_negative_loss(self.classifiers(source.features), source.require("labels"))
        if source.weights is not None:
            losses = losses * source.weights
        uncertain = open_set_entropy(self.classifiers(views["target"].features))
        return 0.5 * losses.mean() + self.entropy * uncertain

    @torch.enable_grad()
    def fit_start(self, features: Tensor, labels: Tensor, seed: int) -> None:
        """Minimise the hard negative loss of the source by AdamW with a cosine schedule.

        The features are scaled to a root mean square of 1 meanwhile, so that the learning rate
        suits any network. The result depends only on the arguments and the present weights.
        """
        scale = float(features.square().mean().sqrt()) or 1.0
        layer = self.classifiers
        x, y = (features / scale).to(layer.weight), labels.to(layer.weight.device)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=DECAY)
        schedule, generator = Cosine(warmup=0.0, final=0.0), torch.Generator().manual_seed(seed)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * schedule(step / STEPS)
            rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
            optimizer.zero_grad(set_to_none=True)
            loss: Any = hard_negative_loss(layer(x[rows]), y[rows]).mean()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            layer.weight /= scale
        optimizer.zero_grad(set_to_none=True)

    def unknown_scores(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the probability ``(B,)`` that a sample is not of its predicted class."""
        found = self.classifiers(features.float())
        return torch.sigmoid(-found.gather(1, logits.argmax(1, keepdim=True))).squeeze(1)
