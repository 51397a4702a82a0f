"""FlexMatch: FixMatch with a threshold for every class that follows how well it is learned.

Zhang, Wang, Hou, Wu, Wang, Okumura, Shinozaki (2021): FlexMatch: Boosting Semi-Supervised Learning
with Curriculum Pseudo Labeling. NeurIPS.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.errors import ConfigError
from tl_lightning.methods.components.gather import gathered_tensor
from tl_lightning.methods.components.pseudo_labels import pseudo_label_loss
from tl_lightning.methods.fixmatch import FixMatch
from tl_lightning.types import Context, Views

__all__ = ["FlexMatch"]


class FlexMatch(FixMatch):
    r"""FixMatch with a lower threshold for classes of which few samples are confident so far.

    With the number of samples :math:`\sigma_c` whose last confident prediction is class :math:`c`,
    :math:`\beta_c = \sigma_c / \max(\max_k \sigma_k, N - \sum_k \sigma_k)` (equation 11), and the
    threshold of the class is :math:`\tau \beta_c / (2 - \beta_c)`.

    Args:
        threshold: :math:`\tau`, the threshold of a class that is learned best.
        num_samples: Number :math:`N` of unlabelled training samples.
        kwargs: As in :class:`Penalty`.

    Raises:
        ConfigError: If ``num_samples`` is None.
    """

    latest: Tensor

    def __init__(self, *, threshold: float, num_samples: int | None, **kwargs: Any) -> None:
        super().__init__(threshold=threshold, **kwargs)
        if num_samples is None:
            raise ConfigError(
                "method.flexmatch.num_samples=null is taken from the data of a run; without them, "
                "set method.flexmatch.num_samples=<number of unlabelled training samples>"
            )
        # The last confident prediction for each sample, or -1; a buffer, to be resumed.
        self.register_buffer("latest", torch.full((num_samples,), -1))

    def thresholds(self) -> Tensor:
        """Return the threshold of every class ``(K,)``."""
        # Neither bincount nor a mask, which would wait for the device; first those without a class.
        ones = torch.ones_like(self.latest)
        found = self.latest.new_zeros(self.num_classes + 1).scatter_add(0, self.latest + 1, ones)
        unused, counts = found[0], found[1:].float()
        learned = counts / torch.maximum(counts.max(), unused).clamp(min=1)
        return self.threshold * learned / (2 - learned)

    def loss(self, views: Views, ctx: Context) -> Tensor:
        """Return the mean loss for the strong view's logits ``(B, K)``."""
        confidence, labels = views["target"].logits.detach().softmax(1).max(1)
        confident = confidence >= self.thresholds()[labels]
        ctx.log("sure", confident.float().mean())
        # On every rank those of all ranks, so that they have the same thresholds.
        found = torch.where(confidence >= self.threshold, labels, -1)
        index, found = (gathered_tensor(part) for part in (views["target"].require("index"), found))
        # Those without a confident prediction write to a place of their own, after the others.
        values = functional.pad(self.latest, (0, 1))
        values[torch.where(found >= 0, index, len(self.latest))] = found
        self.latest.copy_(values[:-1])
        return pseudo_label_loss(views["target_strong"].logits, labels, confident)
