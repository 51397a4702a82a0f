"""Label-free target metrics for epoch selection without target labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["UnlabelledScores"]


class UnlabelledScores(Metric):
    """Mean entropy and information maximisation (IM), exact over batches and ranks.

    ``entropy = mean_i H(p_i)`` is small for confident predictions, even if they are wrong;
    ``im = H(mean_i p_i) - mean_i H(p_i)`` is large for confident and diverse ones. Both in nats.
    Shi and Sha (2012), ICML; for model selection: Musgrave et al. (2022), arXiv:2208.07360.

    >>> scores = UnlabelledScores(num_classes=2)
    >>> scores.update(torch.tensor([[20.0, 0.0], [0.0, 20.0]]))  # confident and balanced: log 2
    >>> {name: round(value.item(), 3) for name, value in scores.compute().items()}
    {'entropy': 0.0, 'im': 0.693}
    """

    full_state_update = False
    probability: Tensor
    uncertainty: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        zeros = torch.zeros(num_classes, dtype=torch.float32)
        self.add_state("probability", zeros, dist_reduce_fx="sum")
        self.add_state("uncertainty", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Add predictions ``(B, K)``."""
        logp = logits.float().log_softmax(dim=1)
        p = logp.exp()
        self.probability += p.sum(dim=0)
        self.uncertainty += -(p * logp).sum()
        self.count += len(logits)

    def compute(self) -> dict[str, Tensor]:
        """Return ``{"entropy": ..., "im": ...}`` over all predictions added so far."""
        mean = self.probability / self.count
        entropy = self.uncertainty / self.count
        return {"entropy": entropy, "im": torch.special.entr(mean).sum() - entropy}
