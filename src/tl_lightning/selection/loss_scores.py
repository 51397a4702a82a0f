"""Model selection scores for labels that are not classes; higher is better for every score.

They use the losses of the source's validation samples, which may be those of numbers or of several
labels of a sample, and the features of both domains. Scores of the target's predictions, such as
entropy or nuclear norm, measure how certain a classifier is; a predicted number has no certainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance
from tl_lightning.selection.importance import Array, dev_risk, ratios, weighted_risk
from tl_lightning.selection.scores import Score

__all__ = ["LOSS_SCORES", "LossOutputs", "loss_scores"]


@dataclass(frozen=True)
class LossOutputs:
    """Losses and features of validation samples of one model.

    Attributes:
        losses: ``(N,)`` of the source's samples, as fractions of the mean loss of a constant.
        source: Features ``(N, D)``.
        target: Features ``(M, D)``.
    """

    losses: Array
    source: Array
    target: Array

    @cached_property
    def weights(self) -> Array:
        """Importance weights ``(N,)`` of the source's samples, see :func:`.ratios`."""
        return ratios(self.source, self.target)

    @property
    def a_distance(self) -> float:
        """Proxy A-distance of the domains, in [0, 2]; 0 with fewer than four samples of one."""
        if min(len(self.source), len(self.target)) < 4:
            return 0.0
        return proxy_a_distance(probe_accuracy(self.source, self.target, seed=0))


#: The scores by name; each is logged after every validation and is a ``selection`` rule.
#: ``distance`` follows the bound of Ben-David, Blitzer, Crammer, Kulesza, Pereira, Vaughan (2010):
#: A theory of learning from different domains. Machine Learning 79. For losses in [0, 1], the risk
#: on the target is at most that on the source plus half the distance of the domains, plus a term
#: that is not known.
LOSS_SCORES: dict[str, Score[LossOutputs]] = {
    "iwcv": Score(
        "lowest importance-weighted source risk",
        lambda found: weighted_risk(found.weights, found.losses),
    ),
    "dev": Score(
        "lowest deep embedded validation risk",
        lambda found: dev_risk(found.weights, found.losses),
    ),
    "distance": Score(
        "lowest sum of the loss on source validation and half the A-distance of the domains",
        lambda found: -float(found.losses.mean()) - found.a_distance / 2,
    ),
}


def loss_scores(outputs: LossOutputs) -> dict[str, float]:
    """Return all scores by name; the worst value of each if an output is not finite."""
    arrays = (outputs.losses, outputs.source, outputs.target)
    if not all(np.isfinite(array).all() for array in arrays):
        return dict.fromkeys(LOSS_SCORES, WORST)
    return {name: score.function(outputs) for name, score in LOSS_SCORES.items()}
