"""The balanced adversary of BA3US, for targets that lack classes of the source.

Liang, Wang, Hu, He, Feng (2020): A Balanced and Uncertainty-aware Approach for Partial Domain
Adaptation. ECCV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.distributed.ranks import rank_mean
from tl_lightning.methods.cdan import certainty
from tl_lightning.methods.components.adversary import Adversary
from tl_lightning.methods.components.gradient_reversal import reverse_gradient
from tl_lightning.types import Context, Terms, View, Views

__all__ = ["BA3US"]


class BA3US(Adversary):
    """A discriminator on the features that takes some of the source for the target.

    A target without some classes of the source differs from it even if every class looks the same;
    a plain discriminator makes up for that by mapping target samples to absent classes. Source
    samples that count as target samples as well put the absent classes into the target:
    ``share (1 - p)`` times as many as there are, at progress ``p``. The authors draw them
    separately; here all samples of the batch count as that fraction of one, which is the same in
    expectation. Samples are weighted by the certainty of their prediction, without gradient.

    Combine it with ``class_weights``, ``complement_entropy`` and ``entropy``, as the authors do.

    Args:
        in_features: Width ``D`` of the features.
        share: Fraction of the source at the start.
        kwargs: As in :class:`Adversary`.
    """

    def __init__(self, *, in_features: int, share: float, **kwargs: Any) -> None:
        super().__init__(in_features=in_features, inputs=in_features, **kwargs)
        self.share = share

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield one message for each invalid setting."""
        yield from super().check_config(where, params)
        if not 0 <= params["share"] <= 1:
            yield f"{where}.share={params['share']} is not in [0, 1]; set {where}.share=0.25"

    def seen(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the features."""
        return features

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the domain loss for views with features ``(B_s, D)`` and ``(B_t, D)``."""
        source, target = views["source"], views["target"]
        scale, share = self.strength(ctx), self.share * (1 - ctx.progress)
        features = reverse_gradient(torch.cat([source.features, target.features]), scale)
        out = self.discriminator(features).squeeze(1).float()
        of_source, of_target = out[: len(source.features)], out[len(source.features) :]
        # Softplus of -z and z: the cross-entropy of a logit with the labels source and target.
        as_source, as_target = functional.softplus(-of_source), functional.softplus(of_source)
        loss = _mean(as_source + share * as_target, _weights(source))
        loss = loss + _mean(functional.softplus(of_target), _weights(target))
        ctx.log("lambda", scale)
        ctx.log("share", share)
        return {self.name: loss / (2 + share)}


def _weights(view: View) -> Tensor:
    """Return the weights ``(B,)``: the certainty, times those of the classes in the source."""
    found = certainty(view.logits.detach(), across_ranks=True)
    return found if view.weights is None else found * view.weights


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over the samples ``(B,)`` of all ranks."""
    return (weights * values).mean() / rank_mean(weights.mean()).clamp_min(1e-12)
