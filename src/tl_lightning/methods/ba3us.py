"""The balanced adversary of BA3US, for targets that lack classes of the source.

Liang, Wang, Hu, He, Feng (2020): A Balanced and Uncertainty-aware Approach for Partial Domain
Adaptation. ECCV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from tl_lightning.distributed.ranks import with_mean_one
from tl_lightning.methods.cdan import certainty
from tl_lightning.methods.components.adversary import Adversary, Weights
from tl_lightning.methods.dann import DANN
from tl_lightning.types import Context, View

__all__ = ["BA3US"]


class BA3US(DANN):
    """A discriminator on the features that takes some of the source for the target.

    A target without some classes of the source differs from it even if every class looks the same;
    a plain discriminator makes up for that by mapping target samples to absent classes. Source
    samples that count as target samples as well put the absent classes into the target:
    ``share (1 - p)`` times as many as there are, at progress ``p``. The authors draw them
    separately; here all samples of the batch count as that fraction of one, which is the same in
    expectation. Samples are weighted by the certainty of their prediction, without gradient.

    Combine it with ``class_weights``, ``complement_entropy`` and ``entropy``, as the authors do.

    Args:
        share: Fraction of the source at the start.
        kwargs: As in :class:`.DANN`.
    """

    tasks = Adversary.tasks

    def __init__(self, *, share: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield one message for each invalid setting."""
        yield from super().check_config(where, params)
        if not 0 <= params["share"] <= 1:
            yield f"{where}.share={params['share']} is not in [0, 1]; set {where}.share=0.25"

    def weights(self, view: View) -> Tensor:
        """Return the certainty of each prediction ``(B,)``."""
        return certainty(view.logits.detach(), across_ranks=True)

    def compared(self, source: Tensor, target: Tensor, weights: Weights, ctx: Context) -> Tensor:
        """Return the loss, in which source samples count as target samples as well."""
        source, target = source.float(), target.float()
        share = self.share * (1 - ctx.progress)
        ctx.log("share", share)
        # Softplus of -z and z: the cross-entropy of a logit with the labels source and target.
        as_source, as_target = functional.softplus(-source), functional.softplus(source)
        loss = _mean(as_source + share * as_target, weights[0])
        return (loss + _mean(functional.softplus(target), weights[1])) / (2 + share)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weighted mean over the samples ``(B,)`` of all ranks."""
    assert weights is not None
    return (with_mean_one(weights) * values).mean()
